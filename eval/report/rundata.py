"""What a run has left in its folder, read for pages and tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balance.common.documents import read_mapping
from balance.common.metric import Row, at_chance, by_name, direction_of, read_metrics
from balance.errors import UserError

NOT_EVALUATED = ("train/", "accepted/", "data/", "eval/", "stop/")


@dataclass
class RunData:
    """One run.

    Attributes:
        folder: where it lies.
        config: the resolved configuration.
        series: rows of each metric, in the order of the run.
        data: what balancing does to the data (`plan/data.json`), {} if there is no plan yet.
        figures: charts that evaluators made at the last evaluation: dicts of `title` and `html`.
        provenance: versions, commit, device, hashes; {} if not recorded.
        sets: images and what was left out of each evaluation set (`evaluation_sets.json`); {} if not recorded.
        remarks: what the evaluations could not measure or do otherwise than published, a sentence each.
    """

    folder: Path
    config: dict[str, Any]
    series: dict[str, list[Row]]
    data: dict[str, Any]
    figures: list[Row] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.config["name"])

    @property
    def treatment(self) -> str:
        """What was done to the data, in a word or two."""
        balance = self.config.get("balance") or {}
        stages = self.config.get("stages") or []
        if stages:
            return " then ".join(str(stage.get("balance")) for stage in stages)
        return "balanced" if balance.get("method", "none") != "none" else "not balanced"

    @property
    def headline(self) -> dict[str, str]:
        """The metrics that the configuration names as its summary: label -> metric, those that were measured."""
        wanted = self.config["eval"].get("headline") or {}
        return {label: name for label, name in wanted.items() if self.series.get(name)}

    def last(self, name: str) -> Row | None:
        """The newest row of a metric."""
        rows = self.series.get(name)
        return rows[-1] if rows else None

    def first(self, name: str) -> Row | None:
        """The row of a metric from before training."""
        rows = self.series.get(name)
        return rows[0] if rows and rows[0]["step"] == 0 else None

    def random_start(self) -> bool:
        """Whether the run began with random weights, at least of what joins images and texts."""
        model = self.config.get("model") or {}
        return not (model.get("init_from") or model.get("pretrained"))

    def start_at_chance(self) -> bool:
        """Whether the model was no better than guessing before training."""
        rows = [row for name in self.evaluated() if (row := self.first(name))]
        return bool(rows) and (self.random_start() or at_chance(rows))

    def ends_at_chance(self) -> bool:
        """Whether the model is no better than guessing at its last evaluation."""
        return at_chance(rows[-1] for rows in self.evaluated().values())

    def direction(self, name: str) -> str:
        """`bias`, `quality` or `other`, by the kind of the evaluator."""
        return direction_of(self.config, name)

    def evaluated(self) -> dict[str, list[Row]]:
        """The metrics of evaluators alone."""
        return {name: rows for name, rows in self.series.items() if not name.startswith(NOT_EVALUATED)}

    def stages(self) -> list[tuple[int, str]]:
        """(samples, name) of each change of stage after the start."""
        names = [str(stage.get("name") or stage.get("balance")) for stage in self.config.get("stages") or []]
        changes, before = [], None
        for row in self.series.get("train/stage", []):
            if before is not None and row["value"] != before:
                number = int(row["value"])
                changes.append((int(row["samples"]), names[number] if number < len(names) else f"stage {number}"))
            before = row["value"]
        return changes


def load_run(folder: Path, groups: Sequence[str] = ("eval",)) -> RunData:
    """Read a run's folder.

    Args:
        folder: of the run.
        groups: what its configuration must have.

    Raises:
        UserError: there is no run, or one of its files is damaged.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"There is no run at {folder}: it has no config.yaml.")
    figures = _read_json(folder / "figures.json")
    return RunData(
        folder=folder,
        config=_read_config(path, groups),
        series=by_name([row for row in read_metrics(folder / "metrics.jsonl") if _is_whole(row)]),
        data=_read_json(folder / "plan" / "data.json"),
        figures=figures.get("figures", []),
        provenance=_read_json(folder / "provenance.json"),
        sets=_read_json(folder / "evaluation_sets.json"),
        remarks=figures.get("remarks", []),
    )


def _is_whole(row: Row) -> bool:
    """Whether a row has its place in the run, as all have that were not damaged."""
    return all(isinstance(row.get(key), int) for key in ("step", "samples"))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return read_mapping(path, "what a run writes there", "remove it; `resume=true` writes it again")


def _read_config(path: Path, groups: Sequence[str]) -> dict[str, Any]:
    """A run's `config.yaml`, with the groups that its reader looks into."""
    config = read_mapping(path, "a run's configuration", "restore it from a copy, or name another run")
    for group in groups:
        if not isinstance(config.get(group), dict):
            raise UserError(f"{path} is not a run's configuration: it has no {group}; restore it, or name another run.")
    return {"name": path.parent.name, **config}
