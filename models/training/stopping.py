"""When a run may stop before its end: bias is down to the targets, or quality has fallen by more than a bound.

Made for unlearning: a model is fine-tuned on balanced data only until its bias is gone, and not at any price.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from balance.common.metric import Metric, at_chance
from balance.errors import UserError
from balance.files import write_whole

REACHED, FELL, AT_CHANCE = "reached", "quality", "at chance"
HOLDS, FAILS, UNDECIDED = "met", "not met", "cannot be told"


class Stopper:
    """Judges every evaluation against targets and bounds.

    Three metrics are logged: `stop/bias`, the largest bias relative to its target (at most 1: reached); `stop/quality`,
    the largest fall relative to its bound (above 1: too much); `stop/score`, the bias, plus 1,000 where quality has
    fallen too far: the smallest is the best checkpoint. A model whose quality is at chance reaches no target.

    Args:
        targets: bias metric -> the largest absolute value that is wanted, above 0.
        quality: quality metric -> by how much it may fall below its value before training, above 0.
        certain: a target is met only if the whole 95 % interval meets it; None: where that is wider than the target.
        in_a_row: evaluations in a row that must meet all targets.
    """

    def __init__(
        self,
        targets: Mapping[str, float],
        quality: Mapping[str, float],
        certain: bool | None = None,
        in_a_row: int = 2,
    ) -> None:
        self.targets, self.quality, self.certain, self.in_a_row = dict(targets), dict(quality), certain, in_a_row
        self.begun, self.before, self.start = False, dict[str, float](), dict[str, list[float | None]]()
        self.outcome: str | None = None
        self.met, self.guesses = 0, False

    @property
    def wanted(self) -> bool:
        """Whether there is anything to judge by."""
        return bool(self.targets or self.quality)

    def judge(self, metrics: Sequence[Metric]) -> list[Metric]:
        """Judge an evaluation; the first one, before training, is what quality is held against.

        Returns:
            The verdict as metrics; none where nothing is asked for.

        Raises:
            UserError: a metric that a target or bound names is not measured.
        """
        if not self.wanted:
            return []
        found = {metric.name: metric for metric in metrics}
        names = [*self.targets, *self.quality]
        for name in names:
            if name not in found:
                known = ", ".join(sorted(metric for metric in found if "/" in metric))
                raise UserError(f"stop names {name}, which is not measured by this run; it measures {known}.")
        if not self.begun:
            self.begun, self.before = True, {name: found[name].value for name in names}
            self.start = {name: [found[name].low, found[name].high] for name in names}
        self.guesses = at_chance(metric.row() for metric in metrics)
        bias = max(
            (self._bias(found[name], target) / target for name, target in self.targets.items()), default=math.inf
        )
        fall = max(((self.before[n] - found[n].value) / bound for n, bound in self.quality.items()), default=0.0)
        self.met = self.met + 1 if bias <= 1 and not self.guesses else 0
        if not fall <= 1:  # a quality that is not a number has fallen, too
            self.outcome = FELL
        elif self.met >= self.in_a_row:
            self.outcome = REACHED
        verdict = [Metric("stop/quality", fall)] if self.quality else []
        if self.targets:
            verdict += [Metric("stop/bias", bias), Metric("stop/score", bias + 1000 * (not fall <= 1))]
        return verdict

    def _bias(self, metric: Metric, target: float) -> float:
        values, ends = [metric.value], [end for end in (metric.low, metric.high) if end is not None]
        wide = len(ends) == 2 and ends[1] - ends[0] > target
        if self.certain or (self.certain is None and wide):
            values += ends
        return max(map(abs, values))

    def supports(self, metrics: Sequence[Metric]) -> dict[str, dict[str, Any]]:
        """What the 95 % intervals say of each target.

        Returns:
            For each metric its `value`, `low`, `high`, `count` and `target`; `target_is`, `met` where the whole
            interval lies within the target, `not met` where it lies outside, else `cannot be told`; `changed`, whether
            the interval and that of the start do not overlap; and `images`, how many would decide the target, where
            it cannot be told.
        """
        found = {metric.name: metric for metric in metrics}
        return {name: self._supports(found[name], target) for name, target in self.targets.items()}

    def _supports(self, metric: Metric, target: float) -> dict[str, Any]:
        low, high, told = metric.low, metric.high, UNDECIDED
        facts: dict[str, Any] = {"value": metric.value, "low": low, "high": high, "count": metric.count}
        facts["target"] = target
        if low is not None and high is not None and not self.guesses:
            within, outside = -target <= low and high <= target, low > target or high < -target
            told = HOLDS if within else FAILS if outside else UNDECIDED
        first = self.start.get(metric.name, [None, None])
        known = None not in (low, high, *first)
        apart = known and not self.guesses and (low > first[1] or high < first[0])  # type: ignore[operator]
        facts |= {"target_is": told, "changed": bool(apart)}
        if told == UNDECIDED and metric.count and low is not None and high is not None:
            facts["images"] = images_to_decide(target, (high - low) / 2, metric.count)
        return facts

    def sentence(self, samples: int, metrics: Sequence[Metric]) -> str:
        """What came of it, in words."""
        found = {metric.name: metric.value for metric in metrics}
        changes = ", ".join(f"{name} {value:.3f} -> {found[name]:.3f}" for name, value in self.before.items())
        end = {
            REACHED: f"Targets reached after {samples:,} samples",
            FELL: f"Stopped after {samples:,} samples: quality has fallen by more than its bound",
        }.get(self.outcome or "", f"Targets not reached within {samples:,} samples")
        if self.guesses:
            end = f"Not judged after {samples:,} samples: quality is at chance"
        told = [_in_words(name, facts) for name, facts in self.supports(metrics).items()]
        return f"{end} ({changes}). {' '.join(told)}".rstrip()

    def state_dict(self) -> dict[str, Any]:
        """What quality is held against, and the outcome so far."""
        return {"before": self.before, "start": self.start, "outcome": self.outcome, "met": self.met}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; targets may be others.

        Raises:
            UserError: a bound on a quality whose value before training was not kept.
        """
        kept = dict(state["before"])
        unknown = [name for name in self.quality if name not in kept]
        if unknown:
            raise UserError(
                f"stop.quality.{unknown[0]} was not asked for when the run began, so that its value before training is "
                "not known; leave it out, or start a new run from the weights by model.init_from."
            )
        self.before = {name: value for name, value in kept.items() if name in self.targets or name in self.quality}
        self.start, self.met = dict(state.get("start", {})), int(state.get("met", 0))
        self.begun, self.outcome = True, state["outcome"]


def images_to_decide(target: float, half: float, count: int) -> int:
    """How many images make an interval half as wide as its target, so that a bias of up to half of that is seen to be.

    Args:
        target: the largest size wanted.
        half: half the width of the 95 % interval that `count` images give.
        count: of images.
    """
    return math.ceil(count * (2 * half / target) ** 2)


def _in_words(name: str, facts: Mapping[str, Any]) -> str:
    low, high = facts["low"], facts["high"]
    place = f"{name} {facts['value']:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")
    said = {HOLDS: "is within", FAILS: "is beyond", UNDECIDED: "can't be told to be within"}[facts["target_is"]]
    more = f" on {facts['count']:,} images; about {facts['images']:,} would decide" if "images" in facts else ""
    change = "" if facts["changed"] else ", and no change from the start is shown"
    return f"By its 95 % interval {place} {said} {facts['target']:g}{more}{change}."


def verdicts(targets: Mapping[str, float], quality: Mapping[str, float]) -> list[str]:
    """Names of the metrics that a `Stopper` adds."""
    return (["stop/quality"] if quality else []) + (["stop/bias", "stop/score"] if targets else [])


def write_outcome(folder: Path, stopper: Stopper, samples: int, metrics: Sequence[Metric]) -> None:
    """Write `outcome.json`: why the run ended and when, values before and after, and what their intervals support."""
    found = {metric.name: metric.value for metric in metrics}
    outcome = {
        "outcome": AT_CHANCE if stopper.guesses else stopper.outcome or "not reached",
        "samples": samples,
        "before": stopper.before,
        "after": {name: found[name] for name in stopper.before},
        "targets": stopper.targets,
        "quality": stopper.quality,
        "supports": stopper.supports(metrics),
        "sentence": stopper.sentence(samples, metrics),
    }
    write_whole(folder / "outcome.json", json.dumps(outcome, indent=1))
