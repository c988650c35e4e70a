"""What a source of stimuli becomes, and how it is written: whole, or not at all.

Everything is checked before the first file is written. Files go into a folder `<out>.partial-<hash>`, which is renamed
at the end; a stopped command goes on there, since the hash stands for what is to be written.
"""

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from csv import DictWriter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from balance.common.images import BadImage, opened, to_rgb
from balance.errors import UserError
from balance.files import write_whole
from balance.progress import ProgressLine
from balance.stream.samples import IMAGE_EXTENSIONS

PICTURES = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)
SHARD_ITEMS = 1000
DONE = "prepared.json"


@dataclass(frozen=True)
class Item:
    """A picture with what is known of it.

    Attributes:
        key: its path in the new folder (folders), or its key (shards).
        path: where it lies.
        members: further members of its sample by extension, such as `json` or `cls`; in a folder, unused.
        row: its row of the table, in a folder.
        change: from the file's bytes to new ones; None keeps them as they are.
    """

    key: str
    path: Path
    members: dict[str, Any] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)
    change: Callable[[bytes], bytes] | None = None

    def image(self) -> bytes:
        """The picture as it is written.

        Raises:
            UserError: the file is no picture.
        """
        content = self.path.read_bytes()
        try:
            if self.change is not None:
                return self.change(content)
            with opened(content):
                return content
        except BadImage as error:
            raise UserError(f"{self.path} can't be read as a picture; download it again.") from error


@dataclass
class StimuliPlan:
    """What is to be written.

    Attributes:
        source: its name, such as "utkface".
        items: the pictures, in order.
        table: name of the CSV file of their rows, for a folder of pictures; None writes shards.
        pictures: folder of the pictures inside the new one; or that of the shards.
        split: which part of the source it is; shards without a folder are named after it.
        files: further files by name.
        left_out: what was not taken, by reason.
        notes: what is worth saying about it.
    """

    source: str
    items: list[Item]
    table: str | None = None
    pictures: str = ""
    split: str = "test"
    files: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def fingerprint(self) -> str:
        """A hash of all that is written but for the pictures' bytes, of which it takes names and sizes."""
        digest = hashlib.sha256(json.dumps([self.source, self.table, self.pictures, self.split, self.files]).encode())
        for item in self.items:
            known = [item.key, item.path.name, item.path.stat().st_size, item.members, item.row]
            digest.update(json.dumps(known, sort_keys=True).encode())
        return digest.hexdigest()[:16]


def check_inside(plan: StimuliPlan, source: Path) -> None:
    """Check that a plan reads from the folder of the download alone, and writes into its own.

    Names stand in tables that were downloaded: `../secret.jpg`, an absolute path or a link would copy what is elsewhere
    on this machine.

    Args:
        plan: what is to be written.
        source: the folder that the user named.

    Raises:
        UserError: a name leads out.
    """
    root = source.resolve()
    for item in plan.items:
        if not item.path.resolve().is_relative_to(root):
            raise UserError(
                f"{item.path} leads out of {source}, so it is not read; correct the table, or copy the file."
            )
        if PurePosixPath(item.key).is_absolute() or ".." in PurePosixPath(item.key).parts:
            raise UserError(f"{plan.source}: the name {item.key!r} leads out of the new folder; correct the table.")
    for name in (*plan.files, plan.table or "x", plan.split):
        if name != Path(name).name:
            raise UserError(f"{plan.source}: {name!r} can't be the name of a file; it holds a folder.")


def write(plan: StimuliPlan, out: Path, shown: bool = True) -> bool:
    """Write a plan, which `check_inside` has passed.

    Args:
        plan: what to write.
        out: the new folder.
        shown: show progress.

    Returns:
        False if all of it was there already.

    Raises:
        UserError: there is nothing to write, two pictures have one name, or the folder holds something else.
    """
    if not plan.items:
        raise UserError(f"{plan.source}: nothing to write; {dict(plan.left_out) or 'no picture was found'}.")
    twice = [key for key, count in Counter(item.key for item in plan.items).items() if count > 1]
    if twice:
        raise UserError(f"{plan.source}: {len(twice)} names stand for two pictures each, such as {twice[0]}.")
    mark = plan.fingerprint()
    if out.exists():
        if (out / DONE).is_file() and json.loads((out / DONE).read_text())["fingerprint"] == mark:
            return False
        raise UserError(f"{out} is there already with other content; remove it, or give another out or name.")
    part = out.with_name(f"{out.name}.partial-{mark}")
    (part / plan.pictures).mkdir(parents=True, exist_ok=True)
    units = list(_folder(plan, part) if plan.table is not None else _shards(plan, part))
    with ProgressLine(plan.source, len(plan.items), "pictures", shown=shown) as progress:
        for path, items, content in units:
            if not path.is_file():
                write_whole(path, content())
            progress.update(len(items))
    if plan.table:
        write_whole(part / plan.table, _csv(plan.items))
    for name, text in plan.files.items():
        write_whole(part / name, text)
    about = {
        "source": plan.source,
        "fingerprint": mark,
        "pictures": len(plan.items),
        "left_out": dict(plan.left_out),
        "notes": plan.notes,
    }
    write_whole(part / DONE, json.dumps(about, indent=1) + "\n")
    os.replace(part, out)
    return True


Unit = tuple[Path, list[Item], Callable[[], bytes]]


def _folder(plan: StimuliPlan, part: Path) -> Iterator[Unit]:
    for item in plan.items:
        yield part / plan.pictures / item.key, [item], item.image


def _shards(plan: StimuliPlan, part: Path) -> Iterator[Unit]:
    for start in range(0, len(plan.items), SHARD_ITEMS):
        items = plan.items[start : start + SHARD_ITEMS]
        name = f"{start // SHARD_ITEMS}.tar" if plan.pictures else f"{plan.split}-{start // SHARD_ITEMS:05d}.tar"
        yield part / plan.pictures / name, items, partial(_tar, items)


def _tar(items: Iterable[Item]) -> bytes:
    """A WebDataset shard, the same bytes for the same pictures."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for item in items:
            suffix = item.path.suffix.lower().lstrip(".") if item.change is None else "jpg"
            members = {suffix: item.image()}
            for name, value in item.members.items():
                text = json.dumps(value, ensure_ascii=False) if name == "json" else str(value)
                members[name] = text.encode()
            for name, content in members.items():
                info = tarfile.TarInfo(f"{item.key}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _csv(items: list[Item]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(column for item in items for column in item.row))
    writer = DictWriter(text, ["file", *columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"file": item.key, **item.row} for item in items)
    return text.getvalue()


# ---------------------------------------------------------------------------- reading what was downloaded


def need(path: Path, what: str) -> Path:
    """A file or folder that must be there.

    Raises:
        UserError: it is not.
    """
    if not path.exists():
        raise UserError(f"{path} is not there: {what}.")
    return path


def first_of(folder: Path, names: Iterable[str], what: str) -> Path:
    """The first of several files or folders that is there.

    Raises:
        UserError: none is.
    """
    names = list(names)
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder} has none of {', '.join(names)}: {what}.")


def pictures_in(folder: Path) -> list[Path]:
    """All picture files under a folder, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())


def on_white(content: bytes) -> bytes:
    """The same bytes; a picture with transparency is laid on white, for whatever else may read it.

    Raises:
        BadImage: no picture.
    """
    with opened(content) as picture:
        if not picture.has_transparency_data:
            return content
        buffer = io.BytesIO()
        to_rgb(picture).save(buffer, "PNG")
        return buffer.getvalue()
