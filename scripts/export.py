"""Write a run's model as a folder that open_clip or transformers loads, with a model card of what was measured.

`python scripts/export.py run=runs/mine out=exported/mine [format=open_clip|transformers] [checkpoint=last|best|<step>]
[ema=true] [license=...] [overwrite=false] [push_to_hub=<organisation>/<name>] [private=true] [wandb=offline|online]`.
Adapters are merged into the weights; of a run that kept an average of its weights the average is taken, which is what
was measured, unless `ema=false`. `push_to_hub` sends the folder to the Hugging Face hub, with your own login there.
`wandb` keeps the folder as an artifact in the run's group.
"""

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from balance.common.terminal import say
from balance.errors import UserError
from conf.app.command import run_command, split_options
from eval.report.card import rows_at, write_card
from eval.report.rundata import RunData, load_run
from models.export import FORMS, check_place, export
from models.factory import create
from models.hf_hub import check_push, push
from models.start import FROM, find_start
from models.training.wandb_mirror import WandbMirror
from models.weights import fit_weights, read_weights

DEFAULTS: dict[str, Any] = {
    "run": "",
    "out": "",
    "checkpoint": "last",
    "ema": True,
    "license": None,
    "overwrite": False,
    "format": "open_clip",
    "push_to_hub": "",
    "private": True,
    "wandb": "",
}
LOADED_BY = {
    "open_clip": 'open_clip.create_model_and_transforms("local-dir:{out}")',
    "transformers": 'transformers.AutoModel.from_pretrained("{out}")',
}
MODES = ("", "offline", "online")


def run(arguments: list[str]) -> Path:
    """Check, read, write; the folder.

    Raises:
        UserError: there is no such run or checkpoint, or the folder can't be written.
    """
    options, rest = split_options(arguments, DEFAULTS)
    if rest:
        raise UserError(f"{rest[0].split('=')[0]}= is not an option of export.py; it takes {', '.join(DEFAULTS)}.")
    if not options["run"] or not options["out"]:
        raise UserError("Name the run and the folder to write: run=runs/mine out=exported/mine")
    if options["wandb"] not in MODES:
        raise UserError(f"wandb={options['wandb']} is not known; it is offline or online, or left out.")
    form, private = options["format"], options["private"]
    if form not in FORMS:
        raise UserError(f"format={form} is not known; it is one of {', '.join(FORMS)}.")
    if not isinstance(private, bool):
        raise UserError(f"private={private} is not understood; it is true or false.")
    out = Path(options["out"])
    check_place(out, options["overwrite"])
    if options["push_to_hub"]:
        check_push(options["push_to_hub"], private)
    found = load_run(Path(options["run"]), ("data", "model", "eval", "track"))
    start = find_start(f"{options['run']}@{options['checkpoint']}", "run")
    weights = start.weights()
    averaged = weights.averaged and options["ema"]
    card = write_card(found, rows_at(found, weights.step), averaged, options["license"], form)
    bundle = create(FROM, init_from=f"{options['run']}@{options['checkpoint']}")
    if weights.averaged and not options["ema"]:
        assert start.path is not None
        fit_weights(bundle.model, read_weights(start.path, start.said, ema=False).tensors, start.said, found.name)
    for note in export(bundle, out, card, options["overwrite"], form, f"run={options['run']}"):
        say(f"Note: {note}.")
    say(f"Exported: {LOADED_BY[form].format(out=out)}")
    if options["push_to_hub"]:
        say(f"Sent to {push(out, options['push_to_hub'], private)}")
    if options["wandb"]:
        keep_in_wandb(found, out, options["wandb"])
    return out


def keep_in_wandb(found: RunData, out: Path, mode: str) -> None:
    """Keep an exported folder as an artifact, in an attempt of its own within the run's group."""
    config = {**found.config, "track": {**found.config["track"], "job": "export"}}
    mirror = WandbMirror(found.folder, mode, found.name, config)
    mirror.log_artifact(out, "model")
    mirror.finish()


def main(arguments: list[str]) -> None:
    run(arguments)


if __name__ == "__main__":
    run_command(main, __doc__)
