"""A run's folder: its name, and the configuration written into it."""

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from balance.errors import UserError
from balance.files import whole_file
from balance.stream.opening import ALLOW_PIPE
from conf.schema import Config


def make_up_name(config: Config) -> str:
    """A readable name that is not taken: data, model, balance and seed, with a number where that is needed."""
    treatment = config.balance.get("name") or config.balance.get("method", "none")
    if config.stage.share is not None:
        treatment += f"-{config.stage.order.removeprefix('balanced_')}-{config.stage.share:g}"
    base = f"{config.data.name}-{config.model.name}-{treatment}-s{config.seed}".replace("/", "-").replace(":", "-")
    name, number = base, 2
    while (Path(config.runs) / name).exists():
        name, number = f"{base}-{number}", number + 1
    return name


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
        raise UserError(f"There is no run to resume at {folder}; leave resume=true out to start it.")
    if folder.exists() and not (config.resume or config.overwrite or config.dry_run):
        raise UserError(
            f"{folder} exists; choose another name, add resume=true to go on with it, or overwrite=true to delete it."
        )


def _lies_in(path: str, folder: str) -> bool:
    return Path(path).absolute().is_relative_to(Path(folder).absolute())


def not_begun(folder: Path) -> bool:
    """Whether a folder is that of a run which was killed before its configuration was written.

    Nothing of a run comes before that: a log that the launcher keeps there may lie beside, but no folder, no metrics.
    """
    if not folder.is_dir() or any((folder / name).exists() for name in ("config.yaml", "metrics.jsonl")):
        return False
    return not any(path.is_dir() for path in folder.iterdir())


@contextmanager
def created_folder(config: Config, name: str, first: bool) -> Iterator[Path]:
    """The run's folder while the run is prepared, with `config.yaml` where there was none.

    If bad input keeps the run from beginning, what was written is taken back, so that the corrected command may have
    the name; and a run that was to be overwritten stays, whatever happens.

    Args:
        config: of the run.
        name: of the run.
        first: whether this is the first process, which alone touches the folder.
    """
    folder, aside = Path(config.runs) / name, Path(config.runs) / f".{name}.overwritten"
    if not first:
        yield folder
        return
    overwrites = config.overwrite and not config.resume and folder.exists()
    if overwrites:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.yaml").is_file():
        write_config(config, name, folder)
    try:
        yield folder
    except BaseException as error:
        # What Ctrl-C stopped here can be gone on with, unless a run would be lost by it.
        if overwrites or (isinstance(error, UserError) and "config.yaml" not in there):
            for path in list(folder.iterdir()):
                if path.name not in there:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not there:
                folder.rmdir()
        if overwrites:
            aside.rename(folder)
        raise
    if overwrites:
        shutil.rmtree(aside)


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
