"""Measure the social bias of image-text data, and balance it away by M4 (moment matching with a certificate).

The names below are those for use from other programs; docs/api.md lists them, docs/own-trainer.md shows their use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balance import wds
    from balance.errors import UserError
    from balance.frames import Weighted, from_pandas, rates_of
    from balance.labels.frame import CaptionLabels, label_captions
    from balance.m4.cells import Cells
    from balance.m4.counting import count_parquet
    from balance.m4.explain import explain
    from balance.m4.plan import Plan
    from balance.m4.planfile import load_plan, save_plan
    from balance.m4.problem import Problem
    from balance.m4.solve import solve
    from balance.sampling import BalancedSampler

__all__ = [
    "BalancedSampler",
    "CaptionLabels",
    "Cells",
    "Plan",
    "Problem",
    "UserError",
    "Weighted",
    "count_parquet",
    "explain",
    "from_pandas",
    "label_captions",
    "load_plan",
    "rates_of",
    "save_plan",
    "solve",
    "wds",
]
_FOUND_IN = {
    "balance.errors": ("UserError",),
    "balance.frames": ("Weighted", "from_pandas", "rates_of"),
    "balance.labels.frame": ("CaptionLabels", "label_captions"),
    "balance.m4.cells": ("Cells",),
    "balance.m4.counting": ("count_parquet",),
    "balance.m4.explain": ("explain",),
    "balance.m4.plan": ("Plan",),
    "balance.m4.planfile": ("load_plan", "save_plan"),
    "balance.m4.problem": ("Problem",),
    "balance.m4.solve": ("solve",),
    "balance.sampling": ("BalancedSampler",),
}
_MODULE_OF = {name: module for module, names in _FOUND_IN.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: commands that need a part of `balance` don't load the solver."""
    if name == "wds":
        return import_module("balance.wds")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
