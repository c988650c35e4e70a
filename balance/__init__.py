"""Measure the social bias of image-text data, and balance it away by M4 (moment matching with a certificate)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balance.m4.cells import Cells
    from balance.m4.plan import Plan
    from balance.m4.problem import Problem
    from balance.m4.solve import solve

__all__ = ["Cells", "Plan", "Problem", "solve"]
_FOUND_IN = {"Cells": "balance.m4.cells", "Plan": "balance.m4.plan", "Problem": "balance.m4.problem"}
_FOUND_IN |= {"solve": "balance.m4.solve"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: commands that need a part of `balance` don't load the solver."""
    if name not in _FOUND_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FOUND_IN[name]), name)
