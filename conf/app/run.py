"""A run's folder: its name, and the configuration written into it."""

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from balance.errors import UserError
from balance.files import whole_file
from balance.stream.opening import ALLOW_PIPE
from conf.app.schema import Config

STARTING = ".starting"
"""A file in a run's folder until its first step has been made; see `conf.app.run_folder`."""


def made_up_names(config: Config) -> Iterator[str]:
    """Readable names for a run, whether taken or not: data, model, balance and seed; then with a number, endlessly."""
    treatment = config.balance.get("name") or config.balance.get("method", "none")
    if config.stage.share is not None:
        treatment += f"-{config.stage.order.removeprefix('balanced_')}-{config.stage.share:g}"
    base = f"{config.data.name}-{config.model.name}-{treatment}-s{config.seed}".replace("/", "-").replace(":", "-")
    yield base
    for number in itertools.count(2):
        yield f"{base}-{number}"


def aside_of(folder: Path) -> Path:
    """Where a run lies while the one that replaces it is being started."""
    return folder.with_name(f".{folder.name}.overwritten")


def is_free(folder: Path) -> bool:
    """Whether no run has a folder, nor had it when a start that was to overwrite it was killed."""
    return not aside_of(folder).exists() and (not folder.exists() or not_begun(folder))


def check_run(config: Config) -> None:
    """Check that a run can be started, or resumed, under its name.

    Raises:
        UserError: the folder exists and neither resume nor overwrite is asked for; there is nothing to resume; or the
            settings of the demo's data are combined with other shards.
    """
    data = config.data
    if data.name == "demo" and isinstance(data.train, str) and not _lies_in(data.train, str(data.root)):
        raise UserError(
            f"data.train={data.train} with the demo's settings: for shards of your own add data=wds, and "
            "attributes=captions to read attributes off their captions."
        )
    if config.name is None:
        if config.resume:
            raise UserError("resume=true needs the name of the run to go on with: add name=...")
        return
    if "/" in config.name or config.name in ("", ".", ".."):
        raise UserError(f"name={config.name} can't be the name of a folder; use letters, digits, '-', '_' and '.'.")
    folder = Path(config.runs) / config.name
    if not_begun(folder):
        return
    if config.resume and not (folder / "config.yaml").is_file():
        aside = aside_of(folder)
        if aside.exists():
            raise UserError(
                f"There is no run to resume at {folder}, but the one that an earlier start was to overwrite lies in "
                f"{aside}: rename it to go on with it, or leave resume=true out."
            )
        raise UserError(f"There is no run to resume at {folder}; leave resume=true out to start it.")
    if folder.exists() and not (config.resume or config.overwrite or config.dry_run):
        raise UserError(
            f"{folder} exists; choose another name, add resume=true to go on with it, or overwrite=true to delete it."
        )


def _lies_in(path: str, folder: str) -> bool:
    return Path(path).absolute().is_relative_to(Path(folder).absolute())


def not_begun(folder: Path) -> bool:
    """Whether a folder is that of a run which was killed, or fell, before its first step.

    It is marked as such, or holds nothing of a run yet: a log that the launcher keeps there may lie in it, but no
    folder and no metrics.
    """
    if (folder / STARTING).is_file():
        return True
    if not folder.is_dir() or any((folder / name).exists() for name in ("config.yaml", "metrics.jsonl")):
        return False
    return not any(path.is_dir() for path in folder.iterdir())


def resume_command(config: Config) -> str:
    """What goes on with a run that was stopped."""
    where = "" if config.runs == Config().runs else f" runs={shlex.quote(config.runs)}"
    pipe = f" {ALLOW_PIPE}" if config.data.allow_pipe else ""  # never taken from a run's folder
    return f"python train.py name={shlex.quote(str(config.name))}{where} resume=true{pipe}"


def write_config(config: Config, name: str, folder: Path) -> None:
    """Write `config.yaml`, resolved; when a run is resumed, only once it is known that the checkpoint fits."""
    stored = as_dict(config) | {"name": name, "resume": False, "overwrite": False}
    with whole_file(folder / "config.yaml") as part:
        OmegaConf.save(OmegaConf.create(stored), part)


def as_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain values."""
    return asdict(config)
