"""Evaluation sets that the command line names must be there; those of a group's own choice may be missing."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from balance.errors import UserError
from balance.stream.opening import is_local
from balance.stream.shards import expand_braces, expand_shards

_PARTS = ("path", "labels")


def check_named_sets(config: DictConfig, overrides: Iterable[str]) -> None:
    """Check that the folder of evaluation sets, and the sets' paths, are there where the command names them itself.

    Args:
        config: as composed from the overrides; nothing but what they name is looked up.
        overrides: of the command.

    Raises:
        UserError: one is not there.
    """
    keys = [override.lstrip("+").partition("=")[0] for override in overrides if "=" in override]
    for key in keys:
        parts = key.split(".")
        if key == "eval.root":
            _check_root(_value(config, key))
        elif parts[:2] == ["eval", "sets"]:
            sets = _value(config, "eval.sets")
            names = list(sets) if len(parts) == 2 and isinstance(sets, DictConfig) else parts[2:3]
            for name in names:
                for part in _PARTS if len(parts) < 4 else {parts[3]} & set(_PARTS):
                    _check_path(f"eval.sets.{name}.{part}", _value(config, f"eval.sets.{name}.{part}"), part)


def _value(config: DictConfig, key: str) -> Any:
    """A value with its references resolved; None where it is not there or can't be, which is told elsewhere."""
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return None


def _check_root(root: Any) -> None:
    if isinstance(root, str) and is_local(root) and not Path(root).is_dir():
        raise UserError(f"eval.root={root}: there is no such folder; give the one that holds the evaluation sets.")


def _check_path(key: str, path: Any, part: str) -> None:
    if OmegaConf.is_config(path):
        path = OmegaConf.to_container(path)
    if not path or (isinstance(path, str) and any(Path(one).exists() for one in expand_braces(path, key))):
        return
    if part == "labels":
        raise UserError(f"{key}={path}: there is no such file; give the table of the set's labels, or leave it out.")
    expand_shards(path, key, allow_pipe=True)  # whether commands may run is checked where they would
