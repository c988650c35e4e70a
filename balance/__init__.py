"""Measure the social bias of image-text data, and balance it away by M4 (moment matching with a certificate)."""

from balance.cells import Cells
from balance.plan import Plan
from balance.problem import Problem
from balance.solve import solve

__all__ = ["Cells", "Plan", "Problem", "solve"]
