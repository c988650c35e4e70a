"""Runs that are killed at random file events and moments, and on a full disk, and then go on.

`python -m tests.kills n=100 seed=0` does it; `--help` says what is checked.
"""
