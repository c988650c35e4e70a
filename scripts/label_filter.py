"""Train a filter for a word list's labels on judged captions: `labels.csv` of scripts/label_check.py, filled in.

    python scripts/label_filter.py read=check attribute=woman list=gender out=gender.npz

Prints what the filter would do to labels it has not seen (cross-validated): how many that are left are right, and how
many right ones are lost. Then name it in the captions source, `learned: [gender.npz]`. The more is judged the better: a
file may hold any number of rows, and a language model or an annotator of the images may fill in `truth`.

Settings: read (a folder or a CSV file), attribute (as the file calls it), list (title of the word list; the attribute
if not given), out, threshold (probability of being right below which a label is dropped), strength (inverse penalty),
folds, seed.
"""

import csv
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from balance.common.terminal import say
from balance.errors import UserError
from balance.labels.checking import UNKNOWN, right_shares
from balance.labels.learned import train_filter
from conf.app.command import run_command, split_options

OPTIONS: dict[str, Any] = {
    "read": None,
    "attribute": None,
    "list": None,
    "out": None,
    "threshold": 0.5,
    "strength": 10.0,
    "folds": 5,
    "seed": 0,
}


def main(arguments: list[str]) -> None:
    options, rest = split_options(arguments, OPTIONS)
    if rest or any(options[key] is None for key in ("read", "attribute", "out")):
        raise UserError(f"read, attribute and out must be given, and nothing but {', '.join(OPTIONS)}.")
    attribute = str(options["attribute"])
    texts, right = _judged(Path(str(options["read"])), attribute)
    threshold, strength = float(options["threshold"]), float(options["strength"])
    title = str(options["list"] or attribute)
    final = train_filter(title, texts, right.tolist(), threshold, strength)
    fold = np.random.default_rng(int(options["seed"])).permutation(len(texts)) % int(options["folds"])
    kept = np.zeros(len(texts), bool)
    for one in range(int(options["folds"])):
        training = np.flatnonzero(fold != one)
        model = train_filter(title, [texts[i] for i in training], right[training].tolist(), threshold, strength)
        held_out = np.flatnonzero(fold == one)
        kept[held_out] = model.probability([texts[i] for i in held_out]) >= threshold
    final.save(Path(str(options["out"])))
    before = right_shares(("right", bool(one)) for one in right)
    after = right_shares(("right", bool(one)) for one in right[kept])
    lost = right_shares(("lost", not bool(one)) for one in kept[right])
    say(f"right before: {before['right']}")
    say(f"right after, held out: {after['right'] if after else 'none is left'}")
    say(f"right ones lost, held out: {lost['lost']}")
    say(f"{options['out']}: name it in the captions source as learned: [{options['out']}]")


def _judged(path: Path, attribute: str) -> tuple[list[str], np.ndarray[Any, np.dtype[np.bool_]]]:
    """The captions whose label of an attribute was judged, and whether it was right."""
    file = path / "labels.csv" if path.is_dir() else path
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.DictReader(stream) if (row.get("attribute") or "") == attribute]
    except (OSError, ValueError) as error:
        raise UserError(f"{file} can't be read: {error}.") from error
    texts, right = [], []
    for row in rows:
        truth, label = (row.get("truth") or "").strip().casefold(), (row.get("label") or "").strip()
        if truth not in ("", "?") and label != UNKNOWN:
            texts.append(row.get("caption") or "")
            right.append(truth in ("y", "yes", label.casefold()))
    if not texts:
        raise UserError(f"{file} holds no judged label of {attribute!r}.")
    return texts, np.array(right, bool)


if __name__ == "__main__":
    run_command(main, __doc__)
