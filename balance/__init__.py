"""Measure the social bias of image-text data, and balance it away by M4 (moment matching with a certificate)."""

from balance.m4.cells import Cells
from balance.m4.plan import Plan
from balance.m4.problem import Problem
from balance.m4.solve import solve

__all__ = ["Cells", "Plan", "Problem", "solve"]
