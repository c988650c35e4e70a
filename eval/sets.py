"""Evaluation sets: pictures with captions or labels, read from WebDataset shards or from folders of picture files.

Three layouts: CLIP_benchmark's (`classnames.txt`, `zeroshot_classification_templates.txt` and `test/*.tar` with `.cls`
members), plain shards with `.json` labels or captions, and a folder of picture files with or without a table of labels.
A folder with `dataset_type.txt` and `test/*.tar` is CLIP_benchmark's, too. Pictures get open_clip's evaluation
transform.
"""

import csv
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from balance.common.holdout import held_out
from balance.common.structure import expecting
from balance.errors import UserError
from balance.stream.damage import Damage
from balance.stream.opening import RefusedAddress
from balance.stream.samples import (
    IMAGE_EXTENSIONS,
    BadSample,
    RawSample,
    check_image,
    parse_sample,
    read_shard,
)
from balance.stream.shards import expand_braces, expand_shards
from eval.features import content_key
from eval.pixels import Picture
from eval.wording import concepts_by_wording, labels_by_wording

PICTURES = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)
LAYOUT_FILES = ("classnames.txt", "dataset_type.txt")  # of CLIP_benchmark, whose shards lie in test/
NO_ROW = "no row in the table of labels"
NO_NAME, NO_NUMBER = "class number without a name", "class that is no number"
FEW = 10  # samples that may be left out whatever their share, as in training


MOST_HELD = 5_000  # images held out of the training data that are measured: more would narrow few intervals


@dataclass(frozen=True)
class HeldOut:
    """Image-text pairs that a run holds back.

    Attributes:
        shards: where they are.
        share: of the samples of these shards, by key, where the run trains on the others; None where all are held out.
    """

    shards: list[str]
    share: float | None = None


class MissingSet(UserError):
    """A set that is not where the configuration says: what needs it is skipped, the rest runs."""


@dataclass
class EvalSet:
    """Pictures with what is known of each.

    Attributes:
        name: its name in the configuration.
        encoded: the pictures as they lie in the shards, n of them.
        labels: for each picture its JSON fields, and `cls` where the set has classes.
        captions: for each picture its captions, possibly none.
        classnames: names of the classes, by number; empty for a number without a name.
        templates: prompts for classes, with `{c}` for the name.
        bad: samples left out, by cause.
        examples: the key of the first sample left out, or the shard, by cause.
        notes: what else is worth a word, a sentence each.
        keys: what each picture is called: its key in the shards, or its path inside the folder, with `/`.
    """

    name: str
    encoded: list[bytes]
    labels: list[dict[str, Any]]
    captions: list[tuple[str, ...]]
    classnames: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    bad: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    _picture_keys: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.encoded)

    def sort(self) -> None:
        """Put the pictures into the order of their content, and equal ones of their keys and captions.

        Intervals draw rows by number, and batches are cut by number: with this order neither how files are named nor
        how they are spread over shards changes a figure.
        """
        known = self.picture_keys()
        order = sorted(range(len(self)), key=lambda row: (known[row], self.keys[row], self.captions[row]))
        self.keep(order)
        self._picture_keys = [known[row] for row in order]

    def keep(self, rows: list[int]) -> None:
        """Keep these rows, in this order."""
        self.encoded = [self.encoded[row] for row in rows]
        self.labels = [self.labels[row] for row in rows]
        self.captions = [self.captions[row] for row in rows]
        self.keys = [self.keys[row] for row in rows]

    def leave_out(self, cause: str, example: str, count: int = 1) -> None:
        """Count samples that can't be used, of which `example` is the first."""
        self.bad[cause] = self.bad.get(cause, 0) + count
        self.examples.setdefault(cause, example)

    def left_out(self) -> str:
        """The samples left out by cause, with an example each, in words; empty where there are none."""
        parts = [
            f"{count:,} {cause}" + (f" (such as {self.examples[cause]})" if cause in self.examples else "")
            for cause, count in sorted(self.bad.items(), key=lambda item: -item[1])
        ]
        return ", ".join(parts)

    def sentences(self) -> list[str]:
        """What a user should know of this set before it is measured."""
        total = len(self) + sum(self.bad.values())
        left = [f"{total - len(self):,} of {total:,} samples are left out: {self.left_out()}."] if self.bad else []
        return [f"set {self.name}: {sentence}" for sentence in [*left, *self.notes]]

    def picture_keys(self) -> list[bytes]:
        """For each picture the hash of its bytes: equal pictures have equal keys, in whichever set."""
        if self._picture_keys is None:
            self._picture_keys = [content_key(image) for image in self.encoded]
        return self._picture_keys

    def pictures(self) -> list[Picture]:
        """The pictures with their keys, and names for messages."""
        names = self.keys or [f"number {row}" for row in range(len(self))]
        return [
            Picture(key, encoded, f"{self.name}/{name}")
            for key, encoded, name in zip(self.picture_keys(), self.encoded, names, strict=True)
        ]


def load_set(name: str, spec: Any, allow_pipe: bool = False, max_bad: float = 0.05) -> EvalSet:
    """Read an evaluation set, pictures still encoded, and leave out what can't be decoded.

    Args:
        name: its name, for messages.
        spec: `path`: a `HeldOut`, a CLIP_benchmark folder, a folder of picture files, or shards in any form that
            `data.train` takes; with picture files, `labels`: a CSV file with a row per picture, and `file`: its column
            of paths inside the folder, by default "file". Braces stand for names that a folder may have:
            `{imagenet,imagenet_sample}`.
            `words`: attribute word lists, `concepts`: concept lists; what captions say by them becomes labels
            (eval/wording.py).
        allow_pipe: let `pipe:` addresses through, which run a shell command for each shard.
        max_bad: the share of samples that may be left out; `FEW` always may.

    Raises:
        MissingSet: nothing is there.
        UserError: a key of `spec` is not known, no sample can be used or too many can't be, or two of the names in
            braces are there.
    """
    with expecting(f"eval.sets.{name}"):
        spec = dict(spec)
    unknown = set(spec) - {"path", "labels", "file", "words", "concepts"}
    if unknown or not spec.get("path"):
        has = ", ".join(sorted(map(str, spec))) or "nothing"
        raise UserError(f"eval.sets.{name} takes path, labels, file, words and concepts; it has {has}.")
    found = _read_set(name, spec, allow_pipe)
    _check_share(found, max_bad)
    found.sort()
    for key, read in (("words", labels_by_wording), ("concepts", concepts_by_wording)):
        words = spec.get(key) or []
        if words:
            try:
                said = read(found.captions, [words] if isinstance(words, str) else words)
            except UserError as error:
                raise UserError(f"eval.sets.{name}.{key}: {error}") from error
            found.labels = [{**known, **labels} for known, labels in zip(found.labels, said, strict=True)]
    return found


def _read_set(name: str, spec: dict[str, Any], allow_pipe: bool) -> EvalSet:
    if isinstance(spec["path"], HeldOut) and spec["path"].share is not None:
        return _load_share(name, spec["path"].shards, spec["path"].share)
    if isinstance(spec["path"], HeldOut):
        return _load_shards(name, spec["path"].shards, None, allow_pipe)
    path, labels = _the_one_there(name, spec["path"], spec.get("labels"))
    folder = Path(path) if isinstance(path, str) else None
    if folder is not None and folder.is_dir() and not (folder / "classnames.txt").is_file():
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)
        if files:
            return _load_folder(name, folder, files, labels, spec.get("file") or "file")
    return _load_shards(name, path, folder, allow_pipe)


def _the_one_there(name: str, path: Any, labels: str | None) -> tuple[Any, str | None]:
    """The folder among those that braces in a path name, with its table of labels; other paths as they are."""
    names = expand_braces(path, f"eval.sets.{name}.path") if isinstance(path, str) else []
    there = [number for number, one in enumerate(names) if Path(one).is_dir()]
    if not there:
        return path, labels
    if len(there) > 1:
        found = " and ".join(names[number] for number in there)
        raise UserError(f"eval.sets.{name}: {found} are both there; say which by eval.sets.{name}.path=.")
    tables = [] if labels is None else expand_braces(labels, f"eval.sets.{name}.labels")
    return names[there[0]], tables[there[0]] if len(tables) == len(names) else labels


def _load_shards(name: str, path: Any, folder: Path | None, allow_pipe: bool) -> EvalSet:
    found = EvalSet(name, [], [], [])
    if folder is not None and (folder / "classnames.txt").is_file():
        _read_classes(found, folder)
    benchmark = folder is not None and any((folder / file).is_file() for file in LAYOUT_FILES)
    if folder is not None and benchmark and (folder / "test").is_dir():
        path = str(folder / "test")
    try:
        shards = expand_shards(path, f"eval.sets.{name}", allow_pipe)
    except RefusedAddress:
        raise
    except UserError as error:
        raise MissingSet(str(error)) from error
    for shard in shards:
        for raw in read_shard(shard, on_bad=partial(_damaged, found, shard)):
            try:
                _add(found, raw)
            except BadSample as error:
                found.leave_out(error.cause, str(raw["__key__"]))
    _leave_out_broken(found)
    if not found.encoded:
        raise MissingSet(
            f"The evaluation set {name} ({path}) has no usable sample: {found.left_out() or 'its shards are empty'}."
        )
    return found


def _by_name(shard: str) -> bytes:
    return hashlib.md5(os.path.basename(shard).encode("utf-8", "surrogateescape"), usedforsecurity=False).digest()


def _load_share(name: str, shards: list[str], share: float) -> EvalSet:
    """What is held out of training shards, from as many as it takes, in an order that has no regard to sources."""
    found = EvalSet(name, [], [], [])

    def damaged(shard: str, damage: Damage) -> None:
        lost = round(damage.lost() * share)
        if lost:
            found.leave_out(damage.cause, shard, lost)

    for shard in sorted(shards, key=_by_name):
        seen: set[str] = set()
        for raw in read_shard(shard, on_bad=partial(damaged, shard)):
            key = str(raw["__key__"])
            if held_out([key], share)[0] and key not in seen:
                seen.add(key)  # of those that share a key the first, as in training
                try:
                    _add(found, raw, need_caption=True)
                except BadSample as error:
                    found.leave_out(error.cause, key)
        if len(found) >= MOST_HELD:
            break
    found.encoded, found.labels = found.encoded[:MOST_HELD], found.labels[:MOST_HELD]
    found.captions, found.keys = found.captions[:MOST_HELD], found.keys[:MOST_HELD]
    _leave_out_broken(found)
    if len(found) < 2:
        raise MissingSet(
            f"data.holdout={share:g} holds out {len(found)} of the training samples, too few to measure on; raise it, "
            "or name shards by data.eval."
        )
    return found


def _damaged(found: EvalSet, shard: str, damage: Damage) -> None:
    found.leave_out(damage.cause, shard, damage.lost())


def _load_folder(name: str, folder: Path, files: list[Path], table: str | None, column: str) -> EvalSet:
    """Picture files in the order of their paths; pictures without a row of the table are left out and counted."""
    found = EvalSet(name, [], [], [])
    labels = None if table is None else _read_table(name, Path(table), column)
    for file in files:
        key = file.relative_to(folder).as_posix()
        if labels is not None and key not in labels:
            found.leave_out(NO_ROW, key)
            continue
        found.encoded.append(file.read_bytes())
        found.labels.append({} if labels is None else labels.pop(key))
        found.captions.append(())
        found.keys.append(key)
    _leave_out_broken(found)
    if labels:
        some = ", ".join(list(labels)[:3])
        raise UserError(f"eval.sets.{name}: {len(labels)} pictures of {table} are not in {folder}, such as {some}.")
    if not found.encoded:
        raise UserError(f"The evaluation set {name} ({folder}) has no usable picture: {found.left_out()}.")
    return found


def _leave_out_broken(found: EvalSet) -> None:
    """Decode each picture once, at the lowest scale, so that none turns out to be damaged after hours of training."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        causes = list(pool.map(_broken, found.encoded))
    if not any(causes):
        return
    for cause, key in zip(causes, found.keys, strict=True):
        if cause is not None:
            found.leave_out(cause, key)
    found.keep([row for row, cause in enumerate(causes) if cause is None])


def _broken(image: bytes) -> str | None:
    try:
        check_image(image)
    except BadSample as error:
        return error.cause
    return None


def _check_share(found: EvalSet, max_bad: float) -> None:
    bad = sum(count for cause, count in found.bad.items() if cause != NO_ROW)  # a table may name a part of a folder
    total = len(found) + bad
    if bad > max(FEW, max_bad * total):
        raise UserError(
            f"The evaluation set {found.name}: {bad:,} of {total:,} samples can't be used ({bad / total:.1%}, more "
            f"than data.max_bad={max_bad:g}): {found.left_out()}; mend the set, or raise data.max_bad."
        )


def _read_table(name: str, path: Path, column: str) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise MissingSet(f"eval.sets.{name}.labels={path} is not there.")
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or column not in rows[0]:
        known = ", ".join(rows[0]) if rows else "nothing"
        raise UserError(f"eval.sets.{name}: {path} has no column {column!r} with the pictures' paths; it has {known}.")
    return {row[column]: {key: value for key, value in row.items() if key != column} for row in rows}


def _add(found: EvalSet, raw: RawSample, need_caption: bool = False) -> None:
    sample = parse_sample(raw, need_caption=need_caption)
    labels = dict(sample.meta)
    if "cls" in raw:
        labels["cls"] = _class_number(raw["cls"], found.classnames)
    found.encoded.append(sample.image)
    found.labels.append(labels)
    found.captions.append(sample.captions)
    found.keys.append(str(raw["__key__"]))


def _class_number(content: bytes, names: list[str]) -> int:
    """The number of a `.cls` member; of a set without names any number is one."""
    try:
        number = int(content)
    except ValueError as error:
        raise BadSample(NO_NUMBER) from error
    if number < 0 or (names and not (number < len(names) and names[number])):
        raise BadSample(NO_NAME)
    return number


def _read_classes(found: EvalSet, folder: Path) -> None:
    """Names by number, so that a blank line keeps its number; and templates."""
    text = (folder / "classnames.txt").read_text(encoding="utf-8-sig").rstrip()
    found.classnames = [line.strip() for line in text.splitlines()]
    blank = [str(number) for number, word in enumerate(found.classnames) if not word]
    if blank:
        found.notes.append(f"{folder / 'classnames.txt'} has no name for class {', '.join(blank[:5])}.")
    path = folder / "zeroshot_classification_templates.txt"
    if path.is_file():
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        found.templates = [line.strip() for line in lines if line.strip()]
    else:
        found.notes.append(f"there is no {path}, so that zero-shot prompts are 'a photo of a {{c}}' unless given.")
