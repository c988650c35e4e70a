"""What is asked of the data: targets, tolerances, keep rate, floors and repeats."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from balance.errors import UserError

Tolerance = float | Mapping[str, float]
FORMS = ("per_concept", "joint")


@dataclass(frozen=True, eq=False)
class Problem:
    """An M4 problem; `docs/m4.md` explains every symbol.

    minimise over q   1/2 sum_c p_c (q_c - eta u_c)^2 + sum_j V_j [sum_c p_c q_c a_cj]_+
    subject to        0 <= q_c <= Q,  sum_c p_c q_c = eta

    Args:
        target: pi for each attribute: a number, or `"data"` for the data's own share. A one-hot group takes a mapping
            from value to share (summing to 1) or `"uniform"`. `"a&b"` names the intersection of two attributes, the
            product of their columns, unknown where either is.
        eps_representation: eps_R, a number or a mapping from attribute (or group) to number; key `default` for the
            others; `inf` switches a constraint off.
        eps_association: eps_D, a number or a mapping whose keys are attributes, concepts, or pairs
            `"attribute|concept"`; the pair wins over the concept, that over the attribute, that over `default`.
        association: `"per_concept"` bounds abs(E_q[s given y_r = 1] - pi), `"joint"` (the paper's form) bounds
            abs(E_q[(s - pi) y_r]).
        keep: eta, the mean rate, in (0, max_repeat]; `"auto"` for the largest rate, at most 1, at which every
            constraint holds.
        min_keep: smallest rate that `"auto"` may choose; what cannot hold at this rate is named and set aside.
        min_concept_kept: rho, the floor E_q[y_r] >= rho eta E[y_r]; a number or a mapping from concept to number.
        min_concept_samples: concepts with fewer samples of known attribute are not constrained, beyond their floor: so
            few do not tell a bias from chance, and one rare concept could cost most of the data.
        hold_rare: keep these concepts from moving away from the target: each is bounded by its own distance in the data
            (or its tolerance, where that is larger). Otherwise balancing the others moves them either way.
        max_repeat: Q, the most times a sample may be used.
        penalty: V, the price of breaking a constraint.
        proxies: concepts reported apart, beside those that the cells name as proxies.
        utility: u, by label (factors of the attributes and concepts that a cell bears multiply) or (n,) for each cell.
        base_weights: (n,) weights that the cells' samples already carry; they scale p.

    Raises:
        UserError: a value is out of range.
    """

    target: Mapping[str, Any]
    eps_representation: Tolerance = 0.01
    eps_association: Tolerance = 0.02
    association: str = "per_concept"
    keep: float | str = 0.9
    min_keep: float = 0.1
    min_concept_kept: Tolerance = 0.25
    min_concept_samples: float = 0.0
    hold_rare: bool = False
    max_repeat: float = 1.0
    penalty: float = 100.0
    proxies: tuple[str, ...] = ()
    utility: Mapping[str, float] | ArrayLike | None = None
    base_weights: ArrayLike | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.target, Mapping) or not self.target:
            raise UserError("target={} is empty; name at least one attribute with its share, such as {woman: 0.5}.")
        if self.association not in FORMS:
            hint = suggest(self.association, FORMS)
            raise UserError(f"association={self.association} is not known{hint}; it is {' or '.join(FORMS)}.")
        _check_number("max_repeat", self.max_repeat, low=0.0, open_low=True)
        _check_number("min_concept_samples", self.min_concept_samples, low=0.0)
        if not isinstance(self.hold_rare, bool):
            raise UserError(f"hold_rare={self.hold_rare} must be true or false.")
        _check_number("penalty", self.penalty, low=0.0, open_low=True)
        self._check_keep()
        for name in ("eps_representation", "eps_association", "min_concept_kept"):
            for value in _values(getattr(self, name)):
                _check_number(name, value, low=0.0, infinite=name.startswith("eps"))
        for value in _values(self.min_concept_kept):
            if value > 1:
                raise UserError(f"min_concept_kept={value:g} must be at most 1: it is a share of the keep rate.")
        object.__setattr__(self, "proxies", tuple(self.proxies))

    def _check_keep(self) -> None:
        if isinstance(self.keep, str):
            if self.keep != "auto":
                raise UserError(f"keep={self.keep} must be a rate above 0, or auto.")
            _check_number("min_keep", self.min_keep, low=0.0, open_low=True)
            if self.min_keep > min(1.0, self.max_repeat):
                raise UserError(
                    f"min_keep={self.min_keep:g} must be at most 1 and at most max_repeat={self.max_repeat:g}."
                )
            return
        _check_number("keep", self.keep, low=0.0, open_low=True)
        if self.keep > self.max_repeat:
            raise UserError(
                f"keep={self.keep:g} must be at most max_repeat={self.max_repeat:g}; lower keep, or allow more repeats."
            )

    def to_dict(self) -> dict[str, Any]:
        """The arguments as plain values for JSON; arrays of one value a cell are left to the plan's table."""
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        values["proxies"] = list(self.proxies)
        if not isinstance(self.utility, Mapping):
            values["utility"] = None
        values["base_weights"] = None
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Problem:
        """The problem with these arguments; an unknown name is an error that suggests the nearest one."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise UserError(
                    f"{name} is no setting of a problem{suggest(name, known)}; it takes {', '.join(known)}."
                )
        if values.get("target") is None:
            raise UserError("target must be given: name each attribute with its wanted share, as in {woman: 0.5}.")
        return cls(**values)


def _plain(value: Any) -> Any:
    return {str(k): _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint such as ` (did you mean 'woman'?)`, or nothing where no name is near."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _values(tolerance: Tolerance) -> list[float]:
    return list(tolerance.values()) if isinstance(tolerance, Mapping) else [tolerance]


def _check_number(name: str, value: Any, low: float, open_low: bool = False, infinite: bool = False) -> None:
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or math.isnan(value) or (math.isinf(value) and not infinite):
        raise UserError(f"{name}={value} must be a number.")
    if value < low or (open_low and value == low):
        raise UserError(f"{name}={value:g} must be {'above' if open_low else 'at least'} {low:g}.")
