"""When a checkpoint is due, and which ones are kept: the newest few and the best."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from balance.errors import UserError
from balance.files import remove_abandoned, write_whole
from models.checkpoint import BEST, best_checkpoint, checkpoint_path, list_checkpoints, save_checkpoint
from models.training.progress import TrainingProgress


class CheckpointManager:
    """Writes the checkpoints of one run.

    Args:
        folder: where they lie.
        progress: the run's position.
        every_steps: steps between two checkpoints; None for none on account of steps.
        every_minutes: minutes between two; None likewise.
        every_epochs: epochs between two; None likewise. The end of the run always has one.
        keep: how many of the newest are kept.
        best: the metric whose best checkpoint is kept beside them; None for none. What is best is known only after an
            evaluation, so that it is one of those.
        best_mode: whether the best is the `min` or the `max`.
    """

    def __init__(
        self,
        folder: Path,
        progress: TrainingProgress,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        every_epochs: int | None = 1,
        keep: int = 2,
        best: str | None = None,
        best_mode: str = "max",
    ) -> None:
        self.folder, self.progress = folder, progress
        self.every_steps, self.every_minutes, self.every_epochs = every_steps, every_minutes, every_epochs
        self.keep, self.best, self.best_mode = keep, best, best_mode
        self.best_step: int | None = None
        self.best_value = float("nan")
        self._since = time.monotonic()

    @property
    def minutes_up(self) -> bool:
        """Whether `every_minutes` have passed on this process; processes differ, so the first decides."""
        return self.every_minutes is not None and time.monotonic() - self._since >= 60 * self.every_minutes

    @property
    def due(self) -> bool:
        """Whether the step just done is one to write a checkpoint after, minutes aside; equal on all processes."""
        at = self.progress
        steps = self.every_steps is not None and at.step % self.every_steps == 0
        epochs = self.every_epochs is not None and at.at_epoch_end and at.epoch_number % self.every_epochs == 0
        return steps or epochs or at.done or self.best_step == at.step

    def note(self, metrics: Mapping[str, float]) -> None:
        """Take note of an evaluation: is the model of this step the best so far?

        Raises:
            UserError: the metric that tells is not among those measured.
        """
        if self.best is None:
            return
        if self.best not in metrics:
            known = ", ".join(sorted(metrics))
            raise UserError(f"checkpoint.best={self.best} is not measured by this run; it measures {known}.")
        if self.progress.step == 0:  # where the run starts is no result of it
            return
        value = metrics[self.best]
        sign = 1 if self.best_mode == "max" else -1
        if self.best_step is None or sign * value > sign * self.best_value:
            self.best_step, self.best_value = self.progress.step, value

    def save(self, state: dict[str, Any]) -> Path:
        """Write a checkpoint of the present step, then remove those that are neither among the newest nor the best."""
        remove_abandoned(self.folder)  # by an attempt that was killed
        for later in list_checkpoints(self.folder):  # damaged, so that the run went back to before it
            if later.name > checkpoint_path(self.folder, self.progress.step).name:
                later.rename(later.with_suffix(".pt.damaged"))
        path = save_checkpoint(self.folder, self.progress.step, state)
        if self.best_step is not None:  # after the file that it may name, before the removal of the one it named
            best_now = {"step": self.best_step, "metric": self.best, "value": self.best_value}
            write_whole(self.folder / BEST, json.dumps(best_now))
        best = best_checkpoint(self.folder)
        for old in list_checkpoints(self.folder)[: -self.keep]:
            if old != best:
                old.unlink()
        return path

    def restart(self) -> None:
        """Count minutes anew, on all processes."""
        self._since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Which checkpoint was the best so far, and by which metric."""
        return {"metric": self.best, "mode": self.best_mode, "step": self.best_step, "value": self.best_value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; under another metric the search for the best starts anew."""
        if (state["metric"], state["mode"]) == (self.best, self.best_mode):
            self.best_step, self.best_value = state["step"], state["value"]
