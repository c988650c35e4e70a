"""Write what a plan uses, for other trainers: ids, weights, keys, or new shards.

    python scripts/subset.py plan=plan attributes=attributes format=weights out=weights.parquet

Settings, all as key=value:
  plan=<folder>         what scripts/solve.py wrote, or plan/ in a run's folder
  attributes=<folder>   what scripts/annotate.py wrote
  format=<form>         uids: DataComp's sorted .npy; weights: parquet of rates and uses; keys: text; shards: new tars
  out=<path>            a file, or a folder for shards
  data.train=<shards>   the shards; needed for format=shards, and for uids that stand in no key
  data.allow_pipe=true  let `pipe:` addresses run shell commands
  seed=0                as in a run, so that the same samples are used
  epoch=0 epochs=1      the first epoch, and how many
  holdout=0             as data.holdout of a run: that share is held out by key
  workers=<n>           processes that read shards (default: cores)
  progress=true         show progress
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from balance.common.pool import in_processes
from balance.common.terminal import say
from balance.common.workers import cores
from balance.errors import UserError
from balance.files import remove_abandoned
from balance.labels.attributes import find_files, read_meta
from balance.m4.planfile import load_plan
from balance.m4.problem import suggest
from balance.progress import ProgressLine
from balance.stream.shards import expand_shards
from balance.subset import tars
from balance.subset.choice import Choice, Chosen, Tally
from balance.subset.lists import write_keys, write_weights
from balance.subset.uids import used_uids, write_uids
from conf.app.command import run_command, split_options

FORMATS = ("uids", "weights", "keys", "shards")
OPTIONS: dict[str, Any] = {
    "plan": "",
    "attributes": "",
    "format": "",
    "out": "",
    "data.train": None,
    "data.allow_pipe": False,
    "seed": 0,
    "epoch": 0,
    "epochs": 1,
    "holdout": 0.0,
    "workers": None,
    "progress": True,
}
_SUFFIX = {"uids": ".npy", "weights": ".parquet", "keys": ".txt"}


def main(arguments: list[str]) -> None:
    """Choose, write, and say what was chosen beside what was planned."""
    options = read_options(arguments)
    form, out = options["format"], Path(options["out"])
    urls, files = shards_and_files(options)
    choice = Choice(load_plan(Path(options["plan"])), *(options[key] for key in ("seed", "epoch", "epochs", "holdout")))
    tally = Tally(choice)
    if form == "weights":
        totals = write_weights(_watched(tally, files, options), choice, out)
        say(f"{out}: {tally.samples:,} rows; {totals}: totals of {len(files)} shards")
    elif form == "keys":
        write_keys(_watched(tally, files, options), out)
        say(f"{out}: {tally.uses:,} lines")
    elif form == "uids":
        for _ in _watched(tally, files, options):
            pass
        pairs = list(zip(files, repeat(None) if urls is None else urls, strict=urls is not None))
        found = in_processes(used_uids, choice, pairs, _workers(options), lambda: None, "balance.subset.uids")
        with ProgressLine("read ids", len(pairs), "shards", shown=options["progress"]) as line:
            say(f"{out}: {write_uids(_counted(found, line), out):,} ids")
    else:
        assert urls is not None
        _write_tars(choice, tally, urls, files, out, options)
    say(f"{tally.uses:,} uses of {tally.used:,} samples, of {tally.samples:,} in {len(files)} shards")
    for name, planned, drawn in tally.shares():
        say(f"share of {name}: {drawn:.4f}, planned {planned:.4f}")


def read_options(arguments: list[str]) -> dict[str, Any]:
    """The settings, checked.

    Raises:
        UserError: an unknown, missing or impossible one.
    """
    options, rest = split_options(arguments, OPTIONS)
    if rest:
        name = rest[0].partition("=")[0]
        raise UserError(f"{name} is no setting{suggest(name, list(OPTIONS))}; there are {', '.join(OPTIONS)}.")
    form = options["format"]
    if form not in FORMATS:
        raise UserError(f"format={form} is none of {', '.join(FORMATS)}.")
    for key in ("plan", "attributes", "out"):
        if not options[key]:
            raise UserError(f"{key} is missing: write {key}=<path>.")
    smallest = {"seed": -(2**63), "epoch": 0, "epochs": 1, "workers": 0}
    for key, least in smallest.items():
        value = options[key]
        if key == "workers" and value is None:
            continue
        if type(value) is not int or value < least:
            raise UserError(f"{key}={value} must be a whole number of at least {least}.")
    if not isinstance(options["holdout"], int | float) or not 0 <= options["holdout"] <= 0.5:
        raise UserError(f"holdout={options['holdout']} must be a share from 0 to 0.5.")
    suffix = _SUFFIX.get(form, "")
    if suffix and Path(options["out"]).suffix != suffix:
        raise UserError(f"out={options['out']} must be a file that ends in {suffix} for format={form}.")
    if form == "shards" and options["data.train"] is None:
        raise UserError("format=shards copies samples: name the shards by data.train.")
    return options


def shards_and_files(options: dict[str, Any]) -> tuple[list[str] | None, list[Path]]:
    """The shards, if they are named, and their attribute files; by default all of the folder, by shard.

    Raises:
        UserError: a shard without attribute file, or no attribute files.
    """
    folder = Path(options["attributes"])
    if options["data.train"] is not None:
        urls = expand_shards(options["data.train"], "data.train", options["data.allow_pipe"] is True)
        return urls, find_files(urls, folder)
    files = sorted(folder.glob("*.parquet"), key=lambda file: (str(read_meta(file)["shard"]), file.name))
    if not files:
        raise UserError(f"attributes={folder} holds no attribute files; make them with scripts/annotate.py.")
    return None, files


def _workers(options: dict[str, Any]) -> int:
    if options["workers"] is not None:
        return int(options["workers"])
    return cores() if cores() > 1 else 0


def _watched(tally: Tally, files: list[Path], options: dict[str, Any]) -> Iterator[Chosen]:
    """What is used of each shard, with progress."""
    with ProgressLine("choose", len(files), "shards", shown=options["progress"]) as line:
        for chosen in tally.each(files):
            yield chosen
            line.update(1, f"{tally.uses:,} uses")


def _counted(found: Iterable[Any], line: ProgressLine) -> Iterator[Any]:
    for one in found:
        yield one
        line.update(1)


def _write_tars(
    choice: Choice, tally: Tally, urls: list[str], files: list[Path], out: Path, options: dict[str, Any]
) -> None:
    counts = [int(chosen.uses.sum()) for chosen in _watched(tally, files, options)]
    shards = tars.new_shards(urls, files, counts, out)
    if not shards:
        raise UserError("The plan uses no sample of these shards in these epochs; there is nothing to write.")
    tars.begin(choice, shards, out)
    todo = [shard for shard in shards if not tars.is_done(choice, shard)]
    before = tally.uses - sum(shard.samples for shard in todo)
    tidy = partial(remove_abandoned, out)
    with ProgressLine("copy", tally.uses, "samples", start=before, shown=options["progress"]) as line:
        for written in in_processes(tars.write_shard, choice, todo, _workers(options), tidy, "balance.subset.tars"):
            line.update(written)
    tars.write_sizes({shard.path.name: shard.samples for shard in shards}, out)
    resumed = f", {len(shards) - len(todo)} of them from before" if len(todo) < len(shards) else ""
    say(f"{shards[0].path} to {shards[-1].path.name}: {tally.uses:,} samples in {len(shards)} shards{resumed}")


if __name__ == "__main__":
    run_command(main, __doc__, bare=False)
