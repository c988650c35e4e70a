"""Where metrics go: `metrics.jsonl`, which is the truth, and W&B, which mirrors it."""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval.metric import Metric


class Tracker:
    """Writes metrics of one run; silent on all processes but the first.

    Args:
        folder: the run's folder.
        active: whether this process writes.
        wandb_mode: offline, online, or disabled.
        project: W&B project.
        entity: W&B user or team.
        name: name of the run; attempts of one run share it as their W&B group.
        config: the resolved configuration.
    """

    def __init__(
        self,
        folder: Path,
        active: bool,
        wandb_mode: str,
        project: str,
        entity: str | None,
        name: str,
        config: dict[str, Any],
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self.active = active
        self._run: Any = None
        if active and wandb_mode != "disabled":
            self._run = _start_wandb(folder, wandb_mode, project, entity, name, config)

    def log(self, metrics: Iterable[Metric], step: int, epoch: float, samples: int) -> None:
        """Append metrics, whole lines at a time."""
        if not self.active:
            return
        metrics = list(metrics)
        rows = [metric.row(step=step, epoch=round(epoch, 4), samples=samples) for metric in metrics]
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        if self._run is not None:
            values = {"step": step, "epoch": epoch, "samples": samples}
            for metric in metrics:
                values[metric.name] = metric.value
                if metric.low is not None and metric.high is not None:
                    values[f"{metric.name}.low"], values[f"{metric.name}.high"] = metric.low, metric.high
            self._run.log(values)

    def rewind(self, step: int) -> None:
        """Remove rows after a step: what a stopped run wrote after the checkpoint that it goes on from."""
        if not self.active or not self.path.exists():
            return
        part = self.path.with_suffix(".part")
        with open(part, "w", encoding="utf-8") as file:
            for row in read_metrics(self.path):
                if row["step"] <= step:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(part, self.path)

    def close(self) -> None:
        """End the W&B run."""
        if self._run is not None:
            self._run.finish()


def _start_wandb(folder: Path, mode: Any, project: str, entity: str | None, name: str, config: dict[str, Any]) -> Any:
    import wandb  # takes a second to import, and is not needed with track=none

    settings = wandb.Settings(silent=True, console="off", init_timeout=30)
    # W&B starts its step again from 0 when an offline run is resumed: each attempt is a run of its own, in one group,
    # and metrics are drawn over our own count of samples.
    run = wandb.init(
        project=project,
        entity=entity,
        name=name,
        group=name,
        dir=str(folder),
        mode=mode,
        config=config,
        settings=settings,
    )
    run.define_metric("samples")
    run.define_metric("*", step_metric="samples")
    return run


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`; a last line that a killed run left unfinished is ignored."""
    rows = []
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows
