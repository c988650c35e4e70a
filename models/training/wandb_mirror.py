"""W&B as a mirror of `metrics.jsonl`: what is logged there, and nothing that could slow or stop a run.

Each attempt of a run is a W&B run of its own, in one group: W&B starts its steps again from 0 when an offline run is
resumed. Everything is drawn over `samples`, our own count. W&B goes on retrying in the background while a server is
away, but its start blocks and can't be repeated offline in the same process: the server is asked for before, with a
short limit.
"""

import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from balance.common.metric import Metric, direction_of

SECONDS_TO_ANSWER = 3.0
SECONDS_TO_FINISH = 60.0
PER_CONCEPT = ("metric", "of", "value", "low", "high", "count", "prompts")


class WandbMirror:
    """One attempt of a run in W&B.

    Args:
        folder: the run's folder; W&B writes into `wandb/` inside it.
        mode: offline or online; an online server that does not answer turns it into offline, with a note.
        name: name of the run, and of the group of its attempts.
        config: the resolved configuration, which becomes W&B's.
    """

    def __init__(self, folder: Path, mode: str, name: str, config: Mapping[str, Any]) -> None:
        import wandb  # takes a second to import, and is not needed with track=none

        self.wandb, self.config, self.folder = wandb, config, folder
        track = config["track"]
        if mode == "online" and not server_answers():
            print(
                f"note: the W&B server {server()} does not answer; this run is kept offline in {folder / 'wandb'}, "
                "send it later with `wandb sync`.",
                file=sys.stderr,
            )
            mode = "offline"
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=30,
            finish_timeout=SECONDS_TO_FINISH,
            finish_timeout_raises=False,
        )
        self.run: Any = wandb.init(
            project=track.get("project", "counterbalance"),
            entity=track.get("entity"),
            name=name,
            group=track.get("group") or name,
            job_type=track.get("job") or "train",
            tags=_tags(config),
            dir=str(folder),
            mode=mode,  # type: ignore[arg-type]
            config=dict(config),
            settings=settings,
        )
        self.run.define_metric("samples")
        self.run.define_metric("*", step_metric="samples")
        self.best: dict[str, float] = {}

    def log(self, metrics: Iterable[Metric], step: int, epoch: float, samples: int) -> None:
        """Log values with their intervals; an evaluation also as a table of what is measured per concept or group."""
        metrics = list(metrics)
        values: dict[str, Any] = {"step": step, "epoch": epoch, "samples": samples}
        rows: list[tuple[Any, ...]] = []
        for metric in metrics:
            if "[" in metric.name and not metric.name.startswith(("accepted/", "data/")):
                name, _, of = metric.name.partition("[")
                rows.append((name, of[:-1], metric.value, metric.low, metric.high, metric.count, metric.prompts))
            values[metric.name] = metric.value
            if metric.low is not None and metric.high is not None:
                values[f"{metric.name}.low"], values[f"{metric.name}.high"] = metric.low, metric.high
            self._note_best(metric)
        if rows:
            table = self.wandb.Table(columns=list(PER_CONCEPT), data=[list(row) for row in rows])
            values["tables/per_concept"] = table
            values["charts/per_concept"] = self.wandb.plot.bar(
                self.wandb.Table(
                    columns=["of", "value"], data=[[f"{name.split('/')[0]}: {of}", v] for name, of, v, *_ in rows]
                ),
                "of",
                "value",
                title="Per concept, last evaluation",
            )
        self.run.log(values)

    def log_artifact(self, path: Path, kind: str) -> None:
        """Keep a folder or a file as an artifact: the plan, an exported model."""
        artifact = self.wandb.Artifact(f"{_safe(self.run.name or 'run')}-{kind}", type=kind)
        (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
        self.run.log_artifact(artifact)

    def log_curves(self, series: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """The metrics of the summary as interactive charts over the samples seen, and bias against quality."""
        headline = self.config["eval"].get("headline") or {}
        for label, name in headline.items():
            rows = series.get(name) or []
            if len(rows) > 1:
                lines = [[row[key] for row in rows] for key in ("value", "low", "high") if rows[0].get(key) is not None]
                keys = ["value", "low", "high"][: len(lines)]
                chart = self.wandb.plot.line_series([r["samples"] for r in rows], lines, keys, label, "samples")
                self.run.log({f"charts/{_safe(label)}": chart})
        by = {way: [n for n in headline.values() if direction_of(self.config, n) == way] for way in ("bias", "quality")}
        if by["bias"] and by["quality"]:
            points = _points(series, by["bias"][0], by["quality"][0])
            if points:
                table = self.wandb.Table(columns=["size of bias", "quality", "samples"], data=points)
                title = f"{by['bias'][0]} against {by['quality'][0]}"
                self.run.log({"charts/frontier": self.wandb.plot.scatter(table, "size of bias", "quality", title)})

    def finish(self) -> None:
        """End the attempt; a server that is away is given a minute, and the run stays in the folder."""
        self.run.summary.update({f"best/{name}": value for name, value in self.best.items()})
        self.run.finish()

    def abandon(self) -> None:
        """End an attempt that has failed; the run's folder may go then."""
        self.run.finish(exit_code=1)

    def _note_best(self, metric: Metric) -> None:
        """The best value so far: of bias the one nearest to zero, of quality the largest."""
        way, before = direction_of(self.config, metric.name), self.best.get(metric.name)
        sign = {"bias": -1, "quality": 1}.get(way)
        if sign is None:
            return
        worth = abs(metric.value) if way == "bias" else metric.value
        if before is None or sign * (worth - (abs(before) if way == "bias" else before)) > 0:
            self.best[metric.name] = metric.value


def _points(series: Mapping[str, Sequence[Mapping[str, Any]]], bias: str, quality: str) -> list[list[float]]:
    at = {row["step"]: row["value"] for row in series.get(quality, [])}
    return [[abs(row["value"]), at[row["step"]], row["samples"]] for row in series.get(bias, []) if row["step"] in at]


def _tags(config: Mapping[str, Any]) -> list[str]:
    treatment = (config.get("balance") or {}).get("method", "none")
    found = [config["data"]["name"], config["model"]["name"], "unbalanced" if treatment == "none" else "balanced"]
    return [_safe(str(tag))[:64] for tag in found if tag]


def _safe(text: str) -> str:
    """A name that W&B takes: letters, digits, dashes, underscores and dots."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "-" for letter in text)


def server() -> str:
    """Where W&B sends runs."""
    import wandb

    return str(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url)


def server_answers(seconds: float = SECONDS_TO_ANSWER) -> bool:
    """Whether the server takes a connection within some seconds."""
    address = urlsplit(server())
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=seconds):
            return True
    except OSError:
        return False
