"""The models of a zoo: what a YAML list names, with what is known of how each was trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import open_clip
import yaml

from balance.errors import UserError
from eval.report.rundata import load_run
from models.start import find_start

MODELS = Path(__file__).resolve().parent.parent / "eval" / "zoo" / "models"
FACTS = MODELS.parent / "facts.yaml"
KEYS = {"suite", "eval", "open_clip", "models"}


@dataclass(frozen=True)
class ZooModel:
    """A model of a zoo.

    Attributes:
        name: in tables; unique.
        source: what `model.init_from` takes: an open_clip tag, a file, a folder, a run.
        facts: what is known of its training: dataset, dataset_family, dataset_size, architecture_family, ...
    """

    name: str
    source: str
    facts: dict[str, Any]


def read_zoo(path: str) -> tuple[dict[str, Any], list[ZooModel]]:
    """Read a zoo: `eval/zoo/models/<name>.yaml`, or a file.

    Keys: `suite`, a suite's name or file; `eval`, changes of it; `open_clip`, patterns of `<name>:<tag>`; `models`, a
    list of `from` (a tag, a file, a folder, a run), optionally `name` and `facts`.

    Returns:
        The file's other keys, and the models.

    Raises:
        UserError: the file or a model is not there, a key is unknown, or two models have one name.
    """
    file = Path(path) if path.endswith((".yaml", ".yml")) else MODELS / f"{path}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(found.stem for found in MODELS.glob("*.yaml")))
        raise UserError(f"zoo={path}: there is no {file}; give a YAML file, or one of {known}.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"zoo={path} can't be read: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(content, dict) or set(content) - KEYS:
        raise UserError(f"zoo={path} takes the keys {', '.join(sorted(KEYS))}; it has {', '.join(map(str, content))}.")
    models = [_tagged(entry) for entry in _tags(content.get("open_clip") or [], path)]
    models += [_listed(entry, path) for entry in content.get("models") or []]
    names = [model.name for model in models]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"zoo={path}: two models are called {min(twice)}; give one of them another `name`.")
    if not models:
        raise UserError(f"zoo={path} names no model: add `models` or `open_clip`.")
    return content, models


def _tags(patterns: list[str], path: str) -> list[str]:
    """The names and tags that fit any of the patterns, in open_clip's order."""
    known = [f"{name}:{tag}" for name, tag in open_clip.list_pretrained()]
    for pattern in patterns:
        if not any(fnmatchcase(one, pattern) for one in known):
            raise UserError(f"zoo={path}: open_clip has no weights that fit {pattern!r}, as <name>:<tag>.")
    return [one for one in known if any(fnmatchcase(one, pattern) for pattern in patterns)]


def _tagged(source: str) -> ZooModel:
    return ZooModel(source, source, tag_facts(source))


def _listed(entry: Any, path: str) -> ZooModel:
    if isinstance(entry, str):
        entry = {"from": entry}
    if not isinstance(entry, Mapping) or not entry.get("from") or set(entry) - {"from", "name", "facts"}:
        raise UserError(f"zoo={path}: a model has `from`, and optionally `name` and `facts`; this is {entry}.")
    source = str(entry["from"])
    start = find_start(source, f"zoo={path}: from")
    facts = tag_facts(source) if start.kind == "tag" else run_facts(Path(source.partition("@")[0]))
    return ZooModel(str(entry.get("name") or start.name), source, {**facts, **(entry.get("facts") or {})})


def tag_facts(source: str) -> dict[str, Any]:
    """What `eval/zoo/facts.yaml` knows of `<name>:<tag>`; None for what is not known."""
    name, _, tag = source.partition(":")
    table = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    facts: dict[str, Any] = {"dataset": None, "dataset_family": None, "dataset_size": None, "architecture_family": None}
    for row in table["datasets"]:
        if fnmatchcase(tag, row["tag"]):
            facts |= {key: value for key, value in row.items() if key not in ("tag", "source")}
            break
    for row in table["architectures"]:
        if fnmatchcase(name, row["name"]):
            facts["architecture_family"] = row["architecture_family"]
            break
    return facts


def run_facts(folder: Path) -> dict[str, Any]:
    """What a run's own folder says of its training; {} for anything else."""
    if not (folder / "config.yaml").is_file():
        return {}
    run = load_run(folder, ("data", "model", "schedule"))
    config = run.config
    data, model, schedule = config["data"], config["model"], config["schedule"]
    facts: dict[str, Any] = {
        "dataset": data["name"],
        "dataset_family": data["name"],
        "architecture_family": model["name"],
        "balance": (config.get("balance") or {}).get("name"),
        "seed": config.get("seed"),
    }
    if run.data:
        facts["dataset_size"] = run.data.get("samples")
    if schedule.get("epoch_samples"):
        facts["samples_seen"] = int(schedule["epoch_samples"]) * int(schedule["epochs"])
    return facts
