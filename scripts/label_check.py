"""How right are the labels? Draw a sample to read, fill it in, and get precision, recall and confusion.

    python scripts/label_check.py data.train=shards/ attributes=captions out=check    draws check/labels.html and .csv
    python scripts/label_check.py read=check                                          reads check/labels.csv back

On the page a click on an answer fills it in, and "Save" downloads labels.csv; it can be filled in by hand as well. Its
column `truth` holds y (the label is right), n (nobody of any of the attribute's values, no such concept), the name of
the value or concept that is right instead, or ? (can't be told: left out). Rows left empty are not counted.

Settings beside the groups `data` and `attributes` of train.py: out (folder), per_label (rows of each label), limit
(samples looked at), images (thumbnails on the page), seed; read (a folder that was drawn into), level (of intervals).
"""

import base64
import csv
import io
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from balance.common.images import BadImage, decode_rgb
from balance.common.terminal import Table, say, terminal
from balance.errors import UserError
from balance.files import whole_file, write_whole
from balance.labels.attributes import build_annotator
from balance.labels.checking import (
    CONCEPT,
    NONE,
    POOR,
    UNKNOWN,
    Judged,
    Share,
    attribute_values,
    judge,
    right_shares,
)
from balance.labels.drawing import Drawn, Row, draw
from balance.stream.samples import BadSample, Sample, parse_sample, read_shard
from balance.stream.shards import expand_shards
from conf.app.cli import compose
from conf.app.command import run_command, split_options
from eval.report.page import render_page

OPTIONS: dict[str, Any] = {
    "out": None,
    "read": None,
    "per_label": 60,
    "limit": 20_000,
    "images": True,
    "seed": 0,
    "level": 0.95,
}
COLUMNS = ("row", "key", "attribute", "label", "words", "caption", "truth")
RESULT = "label_check.json"
_THUMBNAIL = 160
"""Longer side of a picture on the page, in pixels."""


def main(arguments: list[str]) -> None:
    options, overrides = split_options(arguments, OPTIONS)
    if (options["out"] is None) == (options["read"] is None):
        raise UserError("Give out=<folder> to draw a sample, or read=<folder> to read one back.")
    if options["read"] is not None:
        if overrides:
            raise UserError(f"read= takes no settings of a run; got {' '.join(overrides)}.")
        _read(Path(str(options["read"])), float(options["level"]), int(options["seed"]))
    else:
        _draw(options, overrides)


def _draw(options: Mapping[str, Any], overrides: list[str]) -> None:
    out = Path(str(options["out"]))
    if (out / "labels.csv").exists():
        raise UserError(f"{out}/labels.csv is there already and may be filled in; give another out=, or delete it.")
    if not any(override.startswith("data=") for override in overrides):
        overrides = ["data=wds", *overrides]
    config = compose(overrides)
    shards = expand_shards(config.data.train, "data.train", config.data.allow_pipe)
    annotator = build_annotator(config.attributes, shards=shards)
    samples = islice(_samples(shards), int(options["limit"]))
    drawn = draw(annotator, samples, int(options["per_label"]), int(options["seed"]))
    if not drawn.rows:
        raise UserError(f"The shards {config.data.train} hold no good sample to draw from.")
    values = attribute_values(annotator.s_names)
    sizes = [[*stratum, size] for stratum, size in sorted(drawn.sizes.items())]
    about = {"version": 1, "data": str(config.data.train), "annotator": annotator.fingerprint, "samples": drawn.samples,
             "values": values, "sizes": sizes}  # fmt: skip
    table = _table(drawn.rows)
    _write_csv(out / "labels.csv", table)
    write_whole(out / "sample.json", json.dumps(about, indent=1, ensure_ascii=False))
    shown = _shown(drawn, values, bool(options["images"]))
    page = write_whole(
        out / "labels.html",
        render_page("label_check.html", title=about["data"], rows=shown, columns=list(COLUMNS), table=table),
    )
    say(f"{len(drawn.rows):,} of {drawn.samples:,} samples' labels drawn: fill in {page} or {out}/labels.csv, then "
        f"run scripts/label_check.py read={out}")  # fmt: skip


def _samples(shards: Sequence[str]) -> Iterator[Sample]:
    for url in shards:
        for raw in read_shard(url, lambda damage: say(f"note: {damage.cause}: the rest of its shard is left out")):
            try:
                yield parse_sample(raw)
            except BadSample:
                continue


def _table(rows: Sequence[Row]) -> list[list[str]]:
    """The cells of labels.csv, but for the last one, which is to be filled in."""
    table = []
    for i, row in enumerate(rows):
        caption = " | ".join(row.sample.captions).replace("\r", " ").replace("\n", " ")
        cells = (row.sample.key, row.attribute, row.label, ", ".join(row.words), caption)
        table.append([str(i), *map(_harmless, cells)])
    return table


def _write_csv(path: Path, table: Sequence[Sequence[str]]) -> None:
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([*cells, ""] for cells in table)


def _harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text


def _shown(drawn: Drawn, values: Mapping[str, list[str]], images: bool) -> list[dict[str, Any]]:
    """The rows as the page shows them."""
    return [
        {
            "attribute": row.attribute,
            "label": row.label,
            "words": ", ".join(row.words),
            "caption": " | ".join(row.sample.captions),
            "image": _thumbnail(row.sample.image) if images else "",
            "answers": _answers(row, values),
        }
        for row in drawn.rows
    ]


def _answers(row: Row, values: Mapping[str, list[str]]) -> list[str]:
    if row.attribute == CONCEPT:
        return ["y", "n", "?"]
    others = [value for value in values[row.attribute] if value != row.label]
    return ["y", *([] if row.label == UNKNOWN else ["n"]), *others, "?"]


def _thumbnail(encoded: bytes) -> str:
    """A small JPEG of a picture as a data address; empty where it can't be decoded."""
    try:
        picture = decode_rgb(encoded)
    except BadImage:
        return ""
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _read(folder: Path, level: float, seed: int) -> None:
    about, rows = _filled(folder)
    values: dict[str, list[str]] = about["values"]
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    for attribute, stratum, size in about["sizes"]:
        sizes[attribute][stratum] = int(size)
    counts: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    right: list[tuple[str, str, str, bool]] = []
    for row in rows:
        truth = _truth(row, values, folder)
        if truth is None:
            continue
        counts[row["attribute"]][row["label"]][truth] += 1
        if row["label"] not in (UNKNOWN, NONE):
            right += [
                (row["attribute"], row["label"], word, truth == row["label"]) for word in row["words"].split(", ")
            ]
    if not counts:
        raise UserError(f"{folder}/labels.csv has no row with a 'truth' filled in.")
    judged = {one: judge(values[one], sizes[one], counts[one], level, seed) for one in values if one in counts}
    concepts = _concepts(counts.get(CONCEPT, {}), sizes[CONCEPT], level, seed)
    labels = right_shares(((attribute, label), ok) for attribute, label, ok in _labels(counts))
    words = right_shares((((attribute, label, word), ok) for attribute, label, word, ok in right if word), level)
    result = {
        "version": 1,
        **{key: about[key] for key in ("data", "annotator", "samples")},
        "level": level,
        "attributes": {name: one.to_dict() for name, one in judged.items()},
        "concepts": None if concepts is None else {key: share.to_list() for key, share in concepts.items()},
        "labels": [[*key, *share.to_list()] for key, share in labels.items()],
        "words": [[*key, *share.to_list()] for key, share in words.items()],
    }
    write_whole(folder / RESULT, json.dumps(result, indent=1, ensure_ascii=False))
    _print(judged, concepts, labels, words)
    say(f"{folder / RESULT}: give it to the audit as label_check={folder / RESULT}")


def _labels(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Iterator[tuple[str, str, bool]]:
    for attribute, by_label in counts.items():
        for label, truths in by_label.items():
            if label not in (UNKNOWN, NONE):
                yield from ((attribute, label, truth == label) for truth, n in truths.items() for _ in range(n))


def _concepts(
    counts: Mapping[str, Mapping[str, int]], sizes: Mapping[str, int], level: float, seed: int
) -> dict[str, Share] | None:
    """Precision over all mentions, and recall by the samples without any concept that were found to have one."""
    if not counts:
        return None
    pooled: dict[str, dict[str, int]] = {CONCEPT: defaultdict(int), UNKNOWN: defaultdict(int)}
    for label, truths in counts.items():
        for truth, n in truths.items():
            stratum = UNKNOWN if label == NONE else CONCEPT
            hit = truth != NONE if label == NONE else truth == label
            pooled[stratum][CONCEPT if hit else NONE] += n
    found = judge([CONCEPT], {CONCEPT: sizes.get(CONCEPT, 0), UNKNOWN: sizes.get(NONE, 0)}, pooled, level, seed)
    return {"precision": found.precision[CONCEPT], "recall": found.recall[CONCEPT]}


def _filled(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    try:
        about = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
        with (folder / "labels.csv").open(newline="", encoding="utf-8-sig") as file:
            rows = [dict(row) for row in csv.DictReader(file)]
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no folder that scripts/label_check.py drew into: {error}.") from error
    if rows and (missing := {"attribute", "label", "words", "truth"} - set(rows[0])):
        raise UserError(f"{folder}/labels.csv lacks the column {min(missing)!r}; its first line must stay as it was.")
    return about, [{key: (value or "").strip() for key, value in row.items() if key} for row in rows]


def _truth(row: Mapping[str, str], values: Mapping[str, list[str]], folder: Path) -> str | None:
    """What a row's judgement says is true; None where there is none."""
    attribute, label, answer = row["attribute"], row["label"], row["truth"].casefold()
    if answer in ("", "?"):
        return None
    if answer in ("y", "yes"):
        return NONE if label == UNKNOWN else label
    if answer in ("n", "no", NONE):
        return NONE
    known = {value.casefold(): value for value in values.get(attribute, [])}
    if answer in known:
        return known[answer]
    if attribute == CONCEPT:
        return row["truth"]
    raise UserError(
        f"{folder}/labels.csv, row {row.get('row', '?')}: truth is {row['truth']!r}; write y, n, ? or one of "
        f"{', '.join(values.get(attribute, []))}."
    )


def _print(
    judged: Mapping[str, Judged],
    concepts: Mapping[str, Share] | None,
    labels: Mapping[tuple[str, str], Share],
    words: Mapping[tuple[str, str, str], Share],
) -> None:
    console = terminal(no_color=True, width=120)
    table = Table(title="Labels against the reader", title_justify="left")
    for name in ("attribute", "value", "precision", "recall", "share among those of known truth"):
        table.add_column(name)
    for name, one in judged.items():
        for value in one.values:
            table.add_row(name, value, str(one.precision[value]), str(one.recall[value]), str(one.shares[value]))
        table.add_row(name, "any", str(one.known), "", "")
    if concepts is not None:
        table.add_row("concepts", "any", str(concepts["precision"]), str(concepts["recall"]), "")
    console.print(table)
    for name, one in judged.items():
        table = Table(title=f"{name}: truth by label, share of all samples", title_justify="left")
        columns = list(next(iter(one.confusion.values())))
        for column in ("truth", *columns):
            table.add_column(column, justify="left" if column == "truth" else "right")
        for truth, row in one.confusion.items():
            table.add_row(truth, *(f"{row[column]:.3f}" for column in columns))
        console.print(table)
    poor = [
        (key, share) for key, share in (*labels.items(), *words.items()) if share.judged >= 3 and share.value < POOR
    ]
    table = Table(title="Least right of those judged three times or more", title_justify="left")
    for column in ("attribute", "label", "word", "right"):
        table.add_column(column)
    for key, share in sorted(poor, key=lambda item: item[1].value)[:25]:
        table.add_row(*key, *([""] if len(key) == 2 else []), str(share))
    if poor:
        console.print(table)


if __name__ == "__main__":
    run_command(main, __doc__, bare=False)
