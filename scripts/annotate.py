"""Label raw shards: one attribute file a shard, skipping what is done and unchanged.

    python scripts/annotate.py data=wds 'data.train=shards/train-{00000..00099}.tar' attributes=captions out=attributes

Beside the groups `data` and `attributes` of train.py: out (folder), workers (processes; 0 works in this one), engine
(local or ray), ray.address, check_images, need_caption, max_bad, progress, device and precision (of a picture model).

Tables of metadata in place of shards, where there are no pictures yet:

    python scripts/annotate.py data.train=tables 'data.columns={key: uid, caption: text}' attributes=captions out=labels

data.where, a condition on their columns in DuckDB's SQL, keeps some of the rows.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conf.app.runtime  # noqa: F401  # isort: skip  # before torch

from balance.common.terminal import say
from balance.common.workers import cores
from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.annotators import Annotator, EncoderFactory
from balance.labels.attributes import build_annotator
from balance.labels.pictures import Encoder, doubtful_labels
from balance.labels.rows import TableRows, expand_tables
from balance.labels.summary import Summary
from balance.stream.shards import expand_shards
from conf.app.cli import compose
from conf.app.command import run_command, split_options

OPTIONS: dict[str, Any] = {
    "out": None,
    "workers": None,
    "engine": "local",
    "ray.address": None,
    "check_images": True,
    "need_caption": True,
    "max_bad": None,
    "progress": True,
    "device": "auto",
    "precision": "auto",
    "data.columns": None,
    "data.where": "",
}


def main(arguments: list[str]) -> None:
    options, overrides = split_options(arguments, OPTIONS)
    if not any(override.startswith("data=") for override in overrides):
        overrides.insert(0, "data=wds")
    config = compose(overrides)
    if options["out"] is None:
        raise UserError("out must be given: the folder for the attribute files, as in out=attributes.")
    tables = options["data.columns"] is not None or bool(options["data.where"])
    if tables:
        shards = expand_tables(config.data.train)
        annotator = build_annotator(config.attributes, _encoder(options))
    else:
        shards = expand_shards(config.data.train, "data.train", config.data.allow_pipe)
        annotator = build_annotator(config.attributes, _encoder(options), shards)
    what = "parts of tables" if tables else "shards"
    print(f"{len(shards)} {what}; {len(annotator.s_names)} attribute columns, {len(annotator.y_names)} concepts")
    for sentence in doubtful_labels(config.attributes):
        say(f"note: {sentence}")
    annotate_shards(
        shards,
        annotator,
        str(options["out"]),
        workers=_workers(options),
        progress=bool(options["progress"]),
        max_bad=config.data.max_bad if options["max_bad"] is None else float(options["max_bad"]),
        check_images=bool(options["check_images"]),
        need_caption=bool(options["need_caption"]),
        engine=str(options["engine"]),
        ray_address=options["ray.address"],
        report=_print_summary,
        rows=_rows(options, annotator) if tables else None,
    )


def _rows(options: Mapping[str, Any], annotator: Annotator) -> TableRows:
    named = options["data.columns"] or {"key": "key", "caption": "caption"}
    if not isinstance(named, Mapping):
        raise UserError(f"data.columns={named} must be a mapping, as in data.columns={{key: uid, caption: text}}.")
    return TableRows(dict(named), options["data.where"] or None, "meta" in annotator.needs)


def _encoder(options: Mapping[str, Any]) -> EncoderFactory:
    def make(model: Mapping[str, Any]) -> Encoder:
        # Imported only where a picture model is asked for: torch takes seconds.
        from scripts.picture_encoder import encoder_factory

        return encoder_factory(str(options["device"]), str(options["precision"]))(model)

    return make


def _workers(options: Mapping[str, Any]) -> int:
    if options["workers"] is not None:
        return int(options["workers"])
    return cores() if cores() > 1 else 0


def _print_summary(summary: Summary) -> None:
    say("\n".join(summary.lines()))
    fresh = len(summary.files) - summary.done
    if fresh:
        print(f"{fresh} files written in {summary.seconds:.1f} s")


if __name__ == "__main__":
    run_command(main, __doc__, bare=False)
