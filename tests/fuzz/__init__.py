"""Fuzzers: mutated shards, samples, command lines and run folders, through the commands that people use.

`python -m tests.fuzz n=10000 seed=0` runs them; `--help` says what is checked.
"""
