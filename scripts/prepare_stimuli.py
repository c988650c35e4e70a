"""Arrange pictures that you have downloaded as the evaluators read them.

    python scripts/prepare_stimuli.py source=utkface from=~/downloads/UTKFace out=stimuli

Sources: ieat, oasis, omi, morphs, utkface, fairface, miap, coco, flickr8k, flickr30k, imagenet. What to download and
how it must lie is in docs/stimuli.md. Settings:
  source=<name>     one of the above
  from=<folder>     where the download lies; it is only read
  out=<folder>      the folder of all evaluation sets; later eval.root=<folder>
  name=<folder>     the set's own folder in it, by default the source's name (ieat: eat)
  split=<name>      fairface, miap: val or train; captions: test, val, dev or train
  captions=<file>   coco, flickr: the file of captions inside the download
  pattern=<names>   morphs: such as {source_ethnicity}/{gender}/{series}/{step}
  steps=paper       morphs: paper or released
  reverse=false     morphs: true if the first step is the majority face
"""

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from balance.common.terminal import say
from balance.errors import UserError
from conf.app.command import run_command, split_options
from scripts import stimuli_faces, stimuli_pictures
from scripts.stimuli_plan import check_inside, write

SOURCES = {**stimuli_faces.SOURCES, **stimuli_pictures.SOURCES}
NAMES = {"ieat": "eat"}
OPTIONS: dict[str, Any] = {
    "source": "",
    "from": "",
    "out": "",
    "name": "",
    "split": "",
    "captions": "",
    "pattern": "",
    "steps": "",
    "reverse": False,
    "progress": True,
}


def main(arguments: list[str]) -> None:
    options, rest = split_options(arguments, OPTIONS)
    if rest:
        raise UserError(f"{rest[0]!r} is not a setting; they are {', '.join(OPTIONS)}.")
    for key in ("source", "from", "out"):
        if not options[key]:
            raise UserError(f"{key} must be given, as in source=utkface from=~/downloads/UTKFace out=stimuli.")
    name = options["source"]
    if name not in SOURCES:
        raise UserError(f"source={name} is not one of {', '.join(SOURCES)}.")
    source = Path(options["from"]).expanduser()
    if not source.is_dir():
        raise UserError(f"from={source} is no folder; unpack the download and give its folder.")
    if options["steps"] not in ("", "paper", "released"):
        raise UserError(f"steps={options['steps']} is not one of paper, released.")
    if options["name"] and str(options["name"]) != Path(str(options["name"])).name:
        raise UserError(f"name={options['name']} must be the name of a folder in out=, without a path.")
    plan = SOURCES[name](source, options)
    check_inside(plan, source)
    out = Path(options["out"]).expanduser() / (options["name"] or NAMES.get(name, name))
    fresh = write(plan, out, shown=bool(options["progress"]))
    say(f"{out}: {len(plan.items):,} pictures{'' if fresh else ', as they were'}")
    for reason, count in plan.left_out.items():
        say(f"  left out: {count:,} ({reason})")
    for note in plan.notes:
        say(f"  note: {note}")


if __name__ == "__main__":
    run_command(main, __doc__, bare=False)
