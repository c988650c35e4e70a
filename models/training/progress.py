"""Where a run stands and where it ends, in steps, samples and epochs."""

from typing import Any

from balance.errors import UserError


class TrainingProgress:
    """The run's position; an epoch is a fixed number of steps.

    Args:
        epoch_samples: samples in an epoch, over all processes.
        batch: samples in a step, over all processes.
        epochs: length of the run.
        warmup: share of all steps in which the learning rate rises.

    Raises:
        UserError: an epoch does not fill one step.
    """

    def __init__(self, epoch_samples: int, batch: int, epochs: int, warmup: float) -> None:
        self.batch = batch
        self.epoch_steps = epoch_samples // batch
        if self.epoch_steps == 0:
            raise UserError(
                f"An epoch of {epoch_samples} samples does not fill one batch of {batch} over all processes; "
                "lower data.batch_size, raise schedule.epoch_samples or the keep rate, or add data."
            )
        self.total_steps = self.epoch_steps * epochs
        self.warmup_steps = round(self.total_steps * warmup)
        self.step = 0
        self.ended = False  # before its time, because what was wanted is reached or can't be

    @property
    def samples(self) -> int:
        """Samples seen, over all processes."""
        return self.step * self.batch

    @property
    def total_samples(self) -> int:
        """Samples of the whole run."""
        return self.total_steps * self.batch

    @property
    def epoch(self) -> float:
        """Epochs done, with a fraction."""
        return self.step / self.epoch_steps

    @property
    def epoch_number(self) -> int:
        """Whole epochs done."""
        return self.step // self.epoch_steps

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last step ended an epoch."""
        return self.step % self.epoch_steps == 0

    @property
    def done(self) -> bool:
        """Whether the run is at its end."""
        return self.ended or self.step >= self.total_steps

    def state_dict(self) -> dict[str, Any]:
        """The position, and what makes a step."""
        return {"step": self.step, "batch": self.batch, "ended": self.ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        self.step, self.ended = state["step"], state["ended"]
