"""What is measured while training: loss, speed, time spent waiting for data, accepted moments, unusable samples."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from balance.common.metric import Metric
from balance.errors import UserError
from balance.stream.accepted import AcceptedMoments, over_processes
from models.training.distributed import Processes
from models.training.progress import TrainingProgress

if TYPE_CHECKING:
    from balance.stream.balanced import Batch


class Meter:
    """Measurements of one process.

    Args:
        progress: the run's position.
        s_names: names of the attributes.
        y_names: names of the concepts.
        max_bad: share of unusable samples at which the run stops.
        processes: those that train together; the loss and the counts are over all of them.
    """

    def __init__(
        self,
        progress: TrainingProgress,
        s_names: Sequence[str],
        y_names: Sequence[str],
        max_bad: float,
        processes: Processes,
    ) -> None:
        self.processes = processes
        self.progress, self.s_names, self.y_names, self.max_bad = progress, s_names, y_names, max_bad
        self.bad: Counter[str] = Counter()
        self.seen = 0
        self.last_loss = float("nan")
        self.restart()

    def restart(self) -> None:
        """Begin a new epoch of accepted moments and a new interval of speed."""
        self.accepted = AcceptedMoments(self.s_names, self.y_names)
        self._interval()

    def _interval(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.wait, self.since, self.from_step = 0.0, time.perf_counter(), self.progress.step

    def wait_for(self, batches: Iterator["Batch"]) -> "Batch":
        """The next batch; the time until it comes counts as waiting for data."""
        start = time.perf_counter()
        batch = next(batches)
        self.wait += time.perf_counter() - start
        return batch

    def add(self, batch: "Batch", value: torch.Tensor) -> None:
        """Add a step.

        Raises:
            UserError: more samples turn out to be unusable than `data.max_bad` allows.
        """
        self.losses.append(value)
        self.accepted.add(batch.s, batch.y, None if batch.weights is None else batch.weights.numpy())
        self.seen += len(batch.keys)
        self.bad += batch.bad
        if batch.bad and self.bad.total() > max(10, self.max_bad * self.seen):
            raise UserError(
                f"{self.bad.total()} of {self.seen} samples could not be used ({dict(self.bad)}), which is more than "
                f"data.max_bad={self.max_bad}; check the shards."
            )

    def accepted_everywhere(self) -> AcceptedMoments:
        """What all processes together have accepted; they must call this together."""
        return over_processes(self.accepted, self.processes.gather)

    def note(self) -> str:
        """A few words for the progress line."""
        share = self.wait / max(time.perf_counter() - self.since, 1e-9)
        bad = f", {self.bad.total()} bad" if self.bad else ""
        loss = f"loss {self.last_loss:.3f}, " if math.isfinite(self.last_loss) else ""
        return f"{loss}data wait {share:.0%}{bad}"

    def metrics(self, lr: float, logit_scale: float) -> list[Metric]:
        """Metrics of the interval since the last call; all processes must call this together.

        Raises:
            UserError: the loss is not finite.
        """
        self.check_finite()
        self.last_loss = self.processes.mean(float(torch.stack(self.losses).mean()))
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        samples = (self.progress.step - self.from_step) * self.progress.batch
        found = [
            Metric("train/loss", self.last_loss),
            Metric("train/lr", lr),
            Metric("train/logit_scale", logit_scale),
            Metric("train/samples_per_second", samples / elapsed),
            Metric("train/data_wait", self.wait / elapsed),
            Metric("train/bad_samples", sum(self.processes.gather(self.bad.total()))),
        ]
        self._interval()
        return found

    def check_finite(self) -> None:
        """Check the losses of this interval.

        Raises:
            UserError: one is not finite; the sentence names the step.
        """
        if not self.losses:
            return
        wrong = torch.nonzero(~torch.isfinite(torch.stack(self.losses)))
        if len(wrong):
            at = int(wrong[0])
            raise UserError(
                f"The loss is {float(self.losses[at])} at step {self.progress.step - len(self.losses) + at + 1}; lower "
                "optim.lr, or use precision=fp32, and go on from the last checkpoint with resume=true."
            )

    def state_dict(self) -> dict[str, Any]:
        """What the next metrics depend on, as plain values and tensors."""
        sums = {name: torch.from_numpy(array) for name, array in self.accepted.sums().items()}
        losses = torch.stack(self.losses).cpu() if self.losses else torch.zeros(0)
        return {"losses": losses, "accepted": sums, "seen": self.seen, "bad": dict(self.bad)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; speed is measured anew."""
        self.restart()
        self.losses = list(state["losses"])
        self.accepted.load({name: tensor.numpy() for name, tensor in state["accepted"].items()})
        self.seen, self.bad = state["seen"], Counter(state["bad"])
