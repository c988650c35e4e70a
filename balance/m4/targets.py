"""From the names in a problem to columns of numbers: attributes, groups, intersections, tolerances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balance.errors import UserError
from balance.m4.cells import Cells
from balance.m4.problem import Problem, Tolerance, suggest

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """One column to be balanced.

    Attributes:
        name: name of the attribute, of a one-hot value (`group=value`), or of an intersection (`a&b`).
        factors: names of the attributes whose product the column is (one unless it is an intersection).
        pi: wanted share.
        eps: tolerance eps_R on the share.
    """

    name: str
    factors: tuple[str, ...]
    pi: float
    eps: float

    @property
    def group(self) -> str | None:
        """Name of the one-hot group, or None."""
        return self.name.split("=", 1)[0] if "=" in self.name and len(self.factors) == 1 else None


def resolve_targets(cells: Cells, problem: Problem, p: Floats) -> list[Target]:
    """The columns that `problem.target` names, in its order.

    Raises:
        UserError: a name is unknown, a target is outside [0, 1], shares of a group do not sum to 1, or an attribute
            is unknown in every sample.
    """
    wanted: dict[str, float | str] = {}
    for name, value in problem.target.items():
        for key, share in _expand(cells, name, value).items():
            if key in wanted:
                raise UserError(f"target names {key!r} twice: keep one of the two")
            wanted[key] = share
    check_tolerance(problem.eps_representation, "eps_representation", [*wanted, *_groups(cells)])
    targets = []
    for name, share in wanted.items():
        factors = tuple(part.strip() for part in name.split("&"))
        column = product_columns(cells.s, cells.s_names, [factors])[:, 0]
        known = ~np.isnan(column)
        if not known.any():
            raise UserError(f"attribute {name!r} is unknown in every sample: annotate it or take it out of target")
        pi = float(p[known] @ column[known] / p[known].sum()) if share == "data" else _share(name, share)
        targets.append(Target(name, factors, pi, tolerance_of(problem.eps_representation, *_keys(name))))
    return targets


def product_columns(s: Floats, s_names: Sequence[str], factors: Sequence[tuple[str, ...]]) -> Floats:
    """(rows, len(factors)) columns of attributes, or of their products; unknown where a factor is.

    A product is unknown even where another factor is 0: counting only the zeros as known would lower its share.
    """
    index = {name: k for k, name in enumerate(s_names)}
    return np.column_stack([s[:, [index[f] for f in names]].prod(axis=1) for names in factors])


def tolerance_of(tolerance: Tolerance, *keys: str) -> float:
    """The tolerance of the first of `keys` that has one, else the default; above 1 it is infinite, as shares are."""
    if not isinstance(tolerance, Mapping):
        found = float(tolerance)
    else:
        found = next((float(tolerance[key]) for key in (*keys, "default") if key in tolerance), math.inf)
    return found if found <= 1 else math.inf  # no two shares differ by more, and huge numbers overflow the solver


def check_tolerance(tolerance: Tolerance, what: str, known: Sequence[str]) -> None:
    """Raise if a mapping of tolerances names something that is not there, or lacks a default it needs."""
    if not isinstance(tolerance, Mapping):
        return
    for key in tolerance:
        if key != "default" and key not in known:
            raise UserError(f"{what} names {key!r}, which is not constrained{suggest(key, known)}")


def association_tolerance(problem: Problem, target: Target, concept: str) -> float:
    """eps_D for one attribute and one concept."""
    keys = [f"{key}|{concept}" for key in _keys(target.name)] + [concept, *_keys(target.name)]
    return tolerance_of(problem.eps_association, *keys)


def check_association_names(problem: Problem, targets: Sequence[Target], y_names: Sequence[str]) -> None:
    """Raise if `eps_association` or `min_concept_kept` names an unknown attribute, concept, or pair."""
    check_tolerance(problem.min_concept_kept, "min_concept_kept", y_names)
    if isinstance(problem.eps_association, Mapping):
        attributes = {key for target in targets for key in _keys(target.name)}
        pairs = [key for key in problem.eps_association if "|" in key]
        good_pairs = [key for key in pairs if key.split("|")[0] in attributes and key.split("|")[1] in set(y_names)]
        check_tolerance(problem.eps_association, "eps_association", [*attributes, *y_names, *good_pairs])


def _keys(name: str) -> list[str]:
    """Names under which a tolerance for this column may be given: its own, then its group's."""
    return [name, name.split("=", 1)[0]] if "=" in name and "&" not in name else [name]


def _groups(cells: Cells) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in cells.s_names:
        if "=" in name:
            groups.setdefault(name.split("=", 1)[0], []).append(name)
    return groups


def _expand(cells: Cells, name: str, value: object) -> dict[str, float | str]:
    """One entry of `target` as columns and shares."""
    groups = _groups(cells)
    if name in groups and name not in cells.s_names:
        return _expand_group(name, groups[name], value)
    known = [*cells.s_names, *groups]
    for factor in name.split("&"):
        if factor.strip() not in cells.s_names:
            raise UserError(
                f"target names {factor.strip()!r}, which is no attribute of the data{suggest(factor.strip(), known)}; "
                f"the data has {', '.join(known)}"
            )
    if isinstance(value, str) and value == "data":
        return {name: "data"}
    return {name: _share(name, value)}


def _expand_group(group: str, columns: list[str], value: object) -> dict[str, float | str]:
    if isinstance(value, str) and value in ("data", "uniform"):
        return {column: "data" if value == "data" else 1 / len(columns) for column in columns}
    if not isinstance(value, Mapping):
        raise UserError(f"target.{group}={value} must be a share for each value of the group, uniform or data.")
    shares = {f"{group}={key}": share for key, share in value.items()}
    for key in shares:
        if key not in columns:
            raise UserError(f"target names {key!r}, which is no value of {group!r}{suggest(key, columns)}")
    missing = [column for column in columns if column not in shares]
    if missing:
        raise UserError(f"target of the group {group!r} lacks {missing[0]!r}: give every value a share")
    total = sum(_share(key, share) for key, share in shares.items())
    if abs(total - 1) > 1e-6:
        raise UserError(f"targets of the group {group!r} sum to {total:g}: make them sum to 1")
    return {key: _share(key, share) for key, share in shares.items()}


def _share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise UserError(f"target.{name}={value} must be a share in [0, 1], or data.")
    if not 0 <= value <= 1:
        raise UserError(f"target.{name}={value:g} must be a share in [0, 1].")
    return float(value)
