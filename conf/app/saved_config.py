"""The configuration of a run that is gone on with, as its folder keeps it, by whichever version it was written."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf

from balance.common.documents import read_mapping
from balance.errors import UserError
from conf.app.schema import Config

# Keys whose default does what was done before there was the key, although it is no empty one; and groups that do not
# touch what is trained.
NEUTRAL = (
    "device",
    "runs",
    "data.max_bad",
    "data.retries",
    "data.timeout",
    "optim.layer_decay",
    "optim.accumulate",
    "stage.order",
)
# What was done before there was the key, where the default does something else.
BEFORE = {"data.holdout": 0.0, "stop.certain": False, "stop.in_a_row": 1}
BESIDE = ("track", "checkpoint", "dry", "distributed")


def read_stored(folder: Path) -> DictConfig:
    """A run's `config.yaml`, fit for this version.

    A key that the file lacks takes its default where that changes nothing: it switches something off, or does not
    touch what is trained. A key that this version lacks is dropped where it was empty or off.

    Args:
        folder: of the run.

    Raises:
        UserError: the file can't be read, or a key that matters is missing, or is not known.
    """
    path = folder / "config.yaml"
    plain: Any = read_mapping(path, "a run's configuration", "restore it, or start the run anew with overwrite=true")
    for key, text in _interpolations(plain):
        raise UserError(
            f"{path}: {key}={text!r} would be looked up on this machine, and a saved configuration has only values; "
            "write the value there."
        )
    stored = OmegaConf.create(plain)
    instead = f"or start a new run from its weights: model.init_from={folder}"
    for key, default in _lacking(plain, Config()):
        if key in BEFORE:
            OmegaConf.update(stored, key, BEFORE[key])
            continue
        neutral = _off(default) or key in NEUTRAL or key.split(".")[0] in BESIDE
        if default == MISSING or not neutral:
            raise UserError(
                f"{path} has no {key}, and what the run did without it is not known; add the key with the value that "
                f"the run was begun with, {instead}."
            )
    for key, value in _unknown(plain, Config()):
        if not _off(value):
            raise UserError(f"{path} has the key {key}, which this version does not know; take it out, {instead}.")
        parent, _, last = key.rpartition(".")
        del cast(DictConfig, OmegaConf.select(stored, parent) if parent else stored)[last]
    return cast(DictConfig, stored)


def stored_model(folder: Path) -> tuple[str, Any, Any, str | None]:
    """Name, configuration, preprocessing and loss of a run's model, from its `config.yaml`.

    Raises:
        UserError: see `read_stored`.
    """
    model: Any = OmegaConf.to_container(read_stored(folder))["model"]  # type: ignore[call-overload, index]
    return model["name"], model.get("config"), model.get("preprocess"), model.get("loss")


def _interpolations(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, text) of every `${...}`, which may read the environment."""
    if isinstance(value, str) and "${" in value:
        yield key, value
    for name, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        if "${" in str(name):
            yield key, str(name)
        yield from _interpolations(inner, f"{key}.{name}" if key else str(name))


def _off(value: Any) -> bool:
    """Whether a value switches something off."""
    if isinstance(value, dict):
        return all(_off(inner) for inner in value.values())
    return value is None or value is False or value == []


def _lacking(stored: Mapping[str, Any], schema: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, default) of what a file lacks."""
    for name, default in ((one.name, getattr(schema, one.name)) for one in fields(schema)):
        if is_dataclass(default):
            inner = stored.get(name)
            yield from _lacking(inner if isinstance(inner, Mapping) else {}, default, f"{prefix}{name}.")
        elif name not in stored:
            yield f"{prefix}{name}", default


def _unknown(stored: Mapping[str, Any], schema: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of what this version lacks."""
    known = {one.name: getattr(schema, one.name) for one in fields(schema)}
    for name, value in stored.items():
        if name not in known:
            yield f"{prefix}{name}", value
        elif is_dataclass(known[name]) and isinstance(value, Mapping):
            yield from _unknown(value, known[name], f"{prefix}{name}.")
