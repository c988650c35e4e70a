"""Where metrics go: `metrics.jsonl`, which is the truth, and W&B, which mirrors it."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from balance.common.metric import Metric, by_name, read_metrics
from balance.files import write_whole
from models.training.wandb_mirror import WandbMirror


class Tracker:
    """Writes metrics of one run; silent on all processes but the first.

    Used as a context, it ends the attempt in W&B if the block fails.

    Args:
        folder: the run's folder.
        active: whether this process writes.
        name: name of the run.
        config: the resolved configuration; `track.wandb` is offline, online, or disabled.
    """

    def __init__(self, folder: Path, active: bool, name: str, config: dict[str, Any]) -> None:
        self.folder, self.active = folder, active
        self.path = folder / "metrics.jsonl"
        mode = config["track"]["wandb"]
        self._mirror = WandbMirror(folder, mode, name, config) if active and mode != "disabled" else None
        self.attempts = [] if self._mirror is None else [str(self._mirror.run.id)]

    def log(self, metrics: Iterable[Metric], step: int, epoch: float, samples: int) -> None:
        """Append metrics, whole lines at a time."""
        if not self.active:
            return
        metrics = list(metrics)
        rows = [metric.row(step=step, epoch=round(epoch, 4), samples=samples) for metric in metrics]
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        if self._mirror is not None:
            self._mirror.log(metrics, step, epoch, samples)

    def rewind(self, step: int) -> None:
        """Remove rows after a step: what a stopped run wrote after the checkpoint that it goes on from."""
        if not self.active or not self.path.exists():
            return
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        write_whole(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def keep(self, path: Path, kind: str) -> None:
        """Keep a folder or a file with the run: in W&B an artifact of that kind."""
        if self._mirror is not None:
            self._mirror.log_artifact(path, kind)

    def state_dict(self) -> dict[str, Any]:
        """The W&B ids of the attempts so far, this one last: a checkpoint tells which runs its course is in."""
        return {"attempts": list(self.attempts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the next attempt."""
        self.attempts = [*state["attempts"], *self.attempts]

    def close(self) -> None:
        """End the run: charts of its whole course, best values, and the last rows on their way."""
        if self._mirror is not None:
            self._mirror.log_curves(by_name(read_metrics(self.path)))
            self._mirror.finish()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self._mirror is not None:
            with suppress(Exception):  # W&B's troubles are not the user's, who has others now
                self._mirror.abandon()
