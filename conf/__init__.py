"""Configuration: Hydra groups, their typed schema, and the command line."""
