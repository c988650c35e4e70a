"""Training in stages: parts of a run on differently balanced data, one after another ("CLIP the Bias", Figure 3).

A run without stages is one stage. A stage is a share of the run's steps with sampling rates of its own; the passes over
the data are numbered through, so that a new stage goes on with samples that the pass before it has not drawn.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from balance.errors import UserError
from balance.prepare import Balance
from balance.stream.balanced import BalancedStream, Batch


@dataclass(frozen=True)
class StageSpec:
    """One stage as configured.

    Attributes:
        name: what it is called in the report.
        share: share of the run's steps.
        balance: the group `balance` that holds in it.
    """

    name: str
    share: float
    balance: dict[str, Any]


def stage_specs(stages: Sequence[Mapping[str, Any]], balance: Mapping[str, Any]) -> list[StageSpec]:
    """Read the configured stages; a run without any is one stage with the configured balance.

    Args:
        stages: mappings of `share` and `balance`: `none`, the name of the configured balance, or a mapping of keys that
            differ from it; and optionally `name`.
        balance: the configured group `balance`.

    Raises:
        UserError: a share is missing or they do not add up to 1, or a balance is not known.
    """
    if not stages:
        return [StageSpec(_name(balance), 1.0, dict(balance))]
    specs = []
    for number, stage in enumerate(stages):
        if not isinstance(stage, Mapping) or set(stage) - {"share", "balance", "name"} or not {"share"} <= set(stage):
            raise UserError(f"stages[{number}]={stage} is no stage; it takes share, balance and name.")
        share = stage["share"]
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise UserError(f"stages[{number}].share={share} must be above 0 and at most 1.")
        wanted = _balance(number, stage.get("balance", _name(balance)), balance)
        specs.append(StageSpec(str(stage.get("name") or _name(wanted)), float(share), wanted))
    total = sum(spec.share for spec in specs)
    if abs(total - 1) > 1e-6:
        raise UserError(f"The shares of the stages add up to {total:g}; they must add up to 1.")
    return specs


def split_by_share(share: float, order: str, balance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two stages, of which the balanced one takes a share of the run; one if that is all or nothing.

    Raises:
        UserError: there is no balancing to divide the run by.
    """
    if balance.get("method") == "none":
        raise UserError("stage.share divides a run into balanced and unbalanced, but balance=none; take balance=m4.")
    parts = [(share, {"balance": _name(balance)}), (1 - share, {"balance": "none"})]
    stages = [{"share": round(part, 9), **rest} for part, rest in parts if part > 1e-9]
    return stages if order == "balanced_first" else stages[::-1]


def resolve_stages(
    stages: Sequence[Mapping[str, Any]], share: float | None, order: str, balance: Mapping[str, Any]
) -> list[Any]:
    """The configured stages, whether they are listed or given in short as a share.

    Raises:
        UserError: both are given, and they differ.
    """
    if share is None:
        return list(stages)
    short = split_by_share(share, order, balance)
    if stages and list(stages) != short:
        raise UserError("Both stages and stage.share divide the run; give one of them.")
    return short


def _name(balance: Mapping[str, Any]) -> str:
    return str(balance.get("name") or balance.get("method", "dual"))


def _balance(number: int, wanted: Any, balance: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(wanted, Mapping):
        changed = ", ".join(f"{key} {value}" for key, value in wanted.items() if key != "name")
        return {**balance, "name": f"{_name(balance)} {changed}".strip(), **wanted}
    if wanted == "none":
        return {**balance, "name": "none", "method": "none"}
    if wanted == _name(balance):
        return dict(balance)
    raise UserError(
        f"stages[{number}].balance={wanted} is not known; it is none, {_name(balance)} (as configured), or a mapping "
        "of keys that differ, such as {keep: 0.5}."
    )


@dataclass(frozen=True)
class Stages:
    """The stages of a run with what is known of the data in each.

    Attributes:
        specs: as configured.
        balances: one per stage.
    """

    specs: list[StageSpec]
    balances: list[Balance]

    @property
    def main(self) -> Balance:
        """The balance that stands for the run: the first with a plan, or the first."""
        return next((balance for balance in self.balances if balance.plan is not None), self.balances[0])

    @property
    def expected(self) -> int:
        """Samples in an epoch, where none is given: what a pass over the data accepts, in the mean over the stages."""
        return round(sum(spec.share * b.expected for spec, b in zip(self.specs, self.balances, strict=True)))

    @property
    def hash(self) -> str:
        """Changes with the data, a plan, or the division into stages."""
        if len(self.specs) == 1:
            return self.balances[0].hash
        parts = [f"{spec.share!r} {b.hash}" for spec, b in zip(self.specs, self.balances, strict=True)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]

    def ends(self, total_steps: int) -> list[int]:
        """The step at which each stage ends; the last one at the run's end.

        Raises:
            UserError: a stage is shorter than a step.
        """
        ends, share = [], 0.0
        for spec in self.specs:
            share += spec.share
            ends.append(round(total_steps * share))
            if ends[-1] <= (ends[-2] if len(ends) > 1 else 0):
                raise UserError(f"The stage {spec.name} of {spec.share:g} of {total_steps} steps is shorter than one.")
        return ends


def prepare_stages(specs: list[StageSpec], prepare: Callable[[dict[str, Any]], Balance]) -> Stages:
    """Prepare each stage's balance; equal ones once."""
    done: list[tuple[dict[str, Any], Balance]] = []
    for spec in specs:
        if not any(spec.balance == settings for settings, _ in done):
            done.append((spec.balance, prepare(spec.balance)))
    return Stages(specs, [next(b for settings, b in done if settings == spec.balance) for spec in specs])


class StagedStream:
    """The streams of the stages, one after another; its position can be saved as that of each.

    Args:
        streams: one per stage.
        ends: the step at which each ends; the last is never ended.
    """

    def __init__(self, streams: Sequence[BalancedStream], ends: Sequence[int]) -> None:
        self.streams, self.ends = list(streams), list(ends)
        self.stage = self.step = 0

    def stage_at(self, step: int) -> int:
        """Number of the stage in which a step lies, the first step being 0."""
        return sum(step >= end for end in self.ends[:-1])

    @property
    def at_stage_end(self) -> bool:
        """Whether the last step ended a stage that another one follows."""
        return self.step in self.ends[:-1]

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self._enter(self.stage_at(self.step))
            for batch in self.streams[self.stage]:  # endless
                self.step += 1
                yield batch
                if self.stage_at(self.step) != self.stage:
                    break

    def _enter(self, stage: int) -> None:
        """Begin a stage with the pass over the data after the one that the last has begun."""
        if stage != self.stage:
            before = self.streams[self.stage]
            self.streams[stage].epoch, self.streams[stage].batch = before.epoch + (before.batch > 0), 0
            self.stage = stage

    def state_dict(self) -> dict[str, Any]:
        """The position."""
        return {"stage": self.stage, "step": self.step, "stream": self.streams[self.stage].state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position.

        Raises:
            UserError: the order of batches would not be that of the run that saved the position.
        """
        self.stage, self.step = state["stage"], state["step"]
        self.streams[self.stage].load_state_dict(state["stream"])
