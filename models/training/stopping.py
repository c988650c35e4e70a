"""When a run may stop before its end: bias is down to the targets, or quality has fallen by more than a bound.

Made for unlearning: a model is fine-tuned on balanced data only until its bias is gone, and not at any price.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from balance.common.metric import Metric
from balance.errors import UserError
from balance.files import write_whole

REACHED, FELL = "reached", "quality"


class Stopper:
    """Judges every evaluation against targets and bounds.

    Three metrics are logged: `stop/bias`, the largest bias relative to its target (at most 1: reached); `stop/quality`,
    the largest fall relative to its bound (above 1: too much); `stop/score`, the bias, plus 1,000 where quality has
    fallen too far: the smallest is the best checkpoint.

    Args:
        targets: bias metric -> the largest absolute value that is wanted, above 0.
        quality: quality metric -> by how much it may fall below its value before training, above 0.
        certain: a target is met only if the whole 95 % interval meets it.
    """

    def __init__(self, targets: Mapping[str, float], quality: Mapping[str, float], certain: bool = False) -> None:
        self.targets, self.quality, self.certain = dict(targets), dict(quality), certain
        self.begun, self.before = False, dict[str, float]()
        self.outcome: str | None = None

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
        for name in [*self.targets, *self.quality]:
            if name not in found:
                known = ", ".join(sorted(metric for metric in found if "/" in metric))
                raise UserError(f"stop names {name}, which is not measured by this run; it measures {known}.")
        if not self.begun:
            self.begun, self.before = True, {name: found[name].value for name in [*self.targets, *self.quality]}
        bias = max((self._bias(found[name]) / target for name, target in self.targets.items()), default=math.inf)
        fall = max(((self.before[n] - found[n].value) / bound for n, bound in self.quality.items()), default=0.0)
        if not fall <= 1:  # a quality that is not a number has fallen, too
            self.outcome = FELL
        elif bias <= 1:
            self.outcome = REACHED
        verdict = [Metric("stop/quality", fall)] if self.quality else []
        if self.targets:
            verdict += [Metric("stop/bias", bias), Metric("stop/score", bias + 1000 * (not fall <= 1))]
        return verdict

    def _bias(self, metric: Metric) -> float:
        values = [metric.value]
        if self.certain:
            values += [end for end in (metric.low, metric.high) if end is not None]
        return max(map(abs, values))

    def sentence(self, samples: int, metrics: Sequence[Metric]) -> str:
        """What came of it, in words."""
        found = {metric.name: metric.value for metric in metrics}
        changes = ", ".join(f"{name} {value:.3f} -> {found[name]:.3f}" for name, value in self.before.items())
        end = {
            REACHED: f"Targets reached after {samples:,} samples",
            FELL: f"Stopped after {samples:,} samples: quality has fallen by more than its bound",
        }.get(self.outcome or "", f"Targets not reached within {samples:,} samples")
        return f"{end} ({changes})."

    def state_dict(self) -> dict[str, Any]:
        """What quality is held against, and the outcome so far."""
        return {"before": self.before, "outcome": self.outcome}

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
        self.begun, self.outcome = True, state["outcome"]


def verdicts(targets: Mapping[str, float], quality: Mapping[str, float]) -> list[str]:
    """Names of the metrics that a `Stopper` adds."""
    return (["stop/quality"] if quality else []) + (["stop/bias", "stop/score"] if targets else [])


def write_outcome(folder: Path, stopper: Stopper, samples: int, metrics: Sequence[Metric]) -> None:
    """Write `outcome.json`: the reason why the run ended, after how many samples, and values before and after."""
    found = {metric.name: metric.value for metric in metrics}
    outcome = {
        "outcome": stopper.outcome or "not reached",
        "samples": samples,
        "before": stopper.before,
        "after": {name: found[name] for name in stopper.before},
        "targets": stopper.targets,
        "quality": stopper.quality,
        "sentence": stopper.sentence(samples, metrics),
    }
    write_whole(folder / "outcome.json", json.dumps(outcome, indent=1))
