"""Evaluation sets: pictures with captions or labels, read from WebDataset shards or from folders of picture files.

Three layouts: CLIP_benchmark's (`classnames.txt`, `zeroshot_classification_templates.txt` and `test/*.tar` with `.cls`
members), plain shards with `.json` labels or captions, and a folder of picture files with or without a table of labels.
Pictures get the evaluation transform of open_clip, exactly.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balance.errors import UserError
from balance.stream.opening import RefusedAddress
from balance.stream.samples import BadSample, RawSample, check_image_header, image_bytes, parse_sample, read_shard
from balance.stream.shards import expand_braces, expand_shards
from eval.features import content_key
from eval.pixels import Picture
from eval.wording import labels_by_wording

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


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
        classnames: names of the classes, by number.
        templates: prompts for classes, with `{c}` for the name.
        bad: samples left out, by cause.
        keys: what each picture is called: its key in the shards, or its path inside the folder, with `/`.
    """

    name: str
    encoded: list[bytes]
    labels: list[dict[str, Any]]
    captions: list[tuple[str, ...]]
    classnames: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    bad: dict[str, int] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    _picture_keys: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.encoded)

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


def load_set(name: str, spec: Any, allow_pipe: bool = False) -> EvalSet:
    """Read an evaluation set, pictures still encoded.

    Args:
        name: its name, for messages.
        spec: `path`: a CLIP_benchmark folder, a folder of picture files, or shards in any form that `data.train` takes;
            with picture files, `labels`: a CSV file with a row per picture, and `file`: its column of paths inside the
            folder, by default "file". Braces stand for names that a folder may have: `{imagenet,imagenet_sample}`.
            `words`: attribute word lists; what captions say by them becomes labels (eval/wording.py).
        allow_pipe: let `pipe:` addresses through, which run a shell command for each shard.

    Raises:
        MissingSet: nothing is there.
        UserError: a key of `spec` is not known, a file of the layout is missing, no sample can be used, or two of the
            names in braces are there.
    """
    spec = dict(spec)
    unknown = set(spec) - {"path", "labels", "file", "words"}
    if unknown or not spec.get("path"):
        has = ", ".join(sorted(spec)) or "nothing"
        raise UserError(f"eval.sets.{name} takes path, labels, file and words; it has {has}.")
    found = _read_set(name, spec, allow_pipe)
    words = spec.get("words") or []
    if words:
        try:
            said = labels_by_wording(found.captions, [words] if isinstance(words, str) else words)
        except UserError as error:
            raise UserError(f"eval.sets.{name}.words: {error}") from error
        found.labels = [{**known, **labels} for known, labels in zip(found.labels, said, strict=True)]
    return found


def _read_set(name: str, spec: dict[str, Any], allow_pipe: bool) -> EvalSet:
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
        found.classnames, found.templates = _lines(folder / "classnames.txt"), _templates(folder)
        path = str(folder / "test")
    try:
        shards = expand_shards(path, f"eval.sets.{name}", allow_pipe)
    except RefusedAddress:
        raise
    except UserError as error:
        raise MissingSet(str(error)) from error
    for shard in shards:
        for raw in read_shard(shard, on_bad=lambda damage: _count(found.bad, damage.cause, damage.lost())):
            try:
                _add(found, raw)
            except BadSample as error:
                _count(found.bad, error.cause)
    if not found.encoded:
        raise MissingSet(
            f"The evaluation set {name} ({path}) has no usable sample: {found.bad or 'its shards are empty'}."
        )
    return found


def _load_folder(name: str, folder: Path, files: list[Path], table: str | None, column: str) -> EvalSet:
    """Picture files in the order of their paths; pictures without a row of the table are left out and counted."""
    found = EvalSet(name, [], [], [])
    labels = None if table is None else _read_table(name, Path(table), column)
    for file in files:
        key = file.relative_to(folder).as_posix()
        if labels is not None and key not in labels:
            _count(found.bad, "no row in the table of labels")
            continue
        image = file.read_bytes()
        try:
            check_image_header(image)
        except BadSample as error:
            _count(found.bad, error.cause)
            continue
        found.encoded.append(image)
        found.labels.append({} if labels is None else labels.pop(key))
        found.captions.append(())
        found.keys.append(key)
    if labels:
        some = ", ".join(list(labels)[:3])
        raise UserError(f"eval.sets.{name}: {len(labels)} pictures of {table} are not in {folder}, such as {some}.")
    if not found.encoded:
        raise UserError(f"The evaluation set {name} ({folder}) has no usable picture: {found.bad}.")
    return found


def _read_table(name: str, path: Path, column: str) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise MissingSet(f"eval.sets.{name}.labels={path} is not there.")
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or column not in rows[0]:
        known = ", ".join(rows[0]) if rows else "nothing"
        raise UserError(f"eval.sets.{name}: {path} has no column {column!r} with the pictures' paths; it has {known}.")
    return {row[column]: {key: value for key, value in row.items() if key != column} for row in rows}


def _add(found: EvalSet, raw: RawSample) -> None:
    image = image_bytes(raw)
    check_image_header(image)
    captions: tuple[str, ...] = ()
    labels: dict[str, Any] = {}
    try:
        sample = parse_sample({"__key__": raw["__key__"], "txt": b"-", **raw})
        labels = dict(sample.meta)
        captions = sample.captions if sample.captions != ("-",) else ()
    except BadSample as error:
        if error.cause != "no caption":
            raise
    if "cls" in raw:
        labels["cls"] = int(raw["cls"])
        if not 0 <= labels["cls"] < max(len(found.classnames), 1):
            raise BadSample("class number without a name")
    found.encoded.append(image)
    found.labels.append(labels)
    found.captions.append(captions)
    found.keys.append(str(raw["__key__"]))


def _count(bad: dict[str, int], cause: str, count: int = 1) -> None:
    bad[cause] = bad.get(cause, 0) + count


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _templates(folder: Path) -> list[str]:
    path = folder / "zeroshot_classification_templates.txt"
    if not path.is_file():
        raise UserError(f"{folder} has classnames.txt but no {path.name}; add it, one prompt with {{c}} a line.")
    return _lines(path)
