"""Two generators of shards: mutated tar bytes, and sound tars with mutated samples in them."""

import contextlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.mutate import Rng, cut, flip, mutate, odd_value, pack

Member = tuple[str, bytes]
SUFFIXES = (".tar", ".tar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
IMAGE_KINDS = (
    *(
        ("RGB", "JPEG", "jpg"),
        ("L", "JPEG", "jpeg"),
        ("CMYK", "JPEG", "jpg"),
        ("RGB", "PNG", "png"),
        ("RGBA", "PNG", "png"),
    ),
    *(("P", "PNG", "png"), ("LA", "PNG", "png"), ("1", "PNG", "png"), ("I;16", "PNG", "png"), ("F", "TIFF", "tif")),
    *(
        ("I", "TIFF", "tiff"),
        ("RGB", "WEBP", "webp"),
        ("P", "GIF", "gif"),
        ("RGB", "BMP", "bmp"),
        ("RGB", "PPM", "ppm"),
    ),
)


def image(rng: Rng, kind: tuple[str, str, str] = IMAGE_KINDS[0], size: int = 16) -> bytes:
    """An encoded image of one of `IMAGE_KINDS`."""
    mode, form, _ = kind
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 65536, (size, size)).astype(np.uint16))
    elif mode in ("F", "I"):
        picture = Image.fromarray((rng.random((size, size)) * 1e6).astype(np.float32 if mode == "F" else np.int32))
    else:
        picture = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).convert(mode)
    out = io.BytesIO()
    picture.save(out, form)
    return out.getvalue()


def sample(rng: Rng, number: int) -> list[Member]:
    """The members of a sound sample: image, caption, metadata."""
    gender = ("woman", "man", None)[int(rng.integers(3))]
    job = ("nurse", "doctor", "chef")[int(rng.integers(3))]
    meta = {"gender": gender, "occupation": job}
    members = [("jpg", image(rng)), ("txt", f"{gender or 'person'} at work as {job}".encode())]
    return [(f"{number:06d}.{end}", data) for end, data in [*members, ("json", json.dumps(meta).encode())]]


def write_tar(members: list[Member], rng: Rng) -> bytes:
    """A tar in one of the formats that programs write."""
    out = io.BytesIO()
    form = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)[int(rng.integers(3))]
    if any(len(name) > 90 for name, _ in members):  # more than ustar can name
        form = tarfile.GNU_FORMAT
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def spoil_header(data: bytes, rng: Rng) -> bytes:
    """Change a field of a tar header; its checksum is put right half of the time, so that readers believe it."""
    starts = [at for at in range(0, len(data) - 512, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not starts:
        return data
    at = starts[int(rng.integers(len(starts)))]
    header = bytearray(data[at : at + 512])
    start, size = ((0, 100), (100, 8), (124, 12), (124, 12), (148, 8), (156, 1), (157, 100), (345, 155))[
        int(rng.integers(8))
    ]
    values = [
        rng.bytes(size),
        b"\0" * size,
        b"7" * (size - 1) + b"\0",
        b"\x80" + b"\xff" * (size - 1),
        b"\xff" * size,
        b"-1".ljust(size, b"\0"),
        bytes([int(rng.choice(list(b"0123456LKxgSDVN\0")))]).ljust(size, b"\0"),
        b"../../evil.jpg".ljust(size, b"\0"),
    ]
    header[start : start + size] = values[int(rng.integers(len(values)))][:size]
    if rng.random() < 0.5:
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
    return data[:at] + bytes(header) + data[at + 512 :]


def tar_bytes(rng: Rng) -> tuple[str, bytes]:
    """The name and content of a mutated shard of up to eight samples."""
    members = [member for number in range(int(rng.integers(0, 9))) for member in sample(rng, number)]
    if rng.random() < 0.2:
        rng.shuffle(members)  # members apart
    data = write_tar(members, rng)
    if rng.random() < 0.2:
        data += write_tar(sample(rng, 50), rng)  # cat a.tar b.tar
    for _ in range(int(rng.integers(1, 3))):
        data = spoil_header(data, rng) if rng.random() < 0.5 else mutate(data, rng)
    if rng.random() < 0.2:
        data = pack(data, rng)
    return f"s-00000{SUFFIXES[int(rng.integers(len(SUFFIXES)))]}", data


def odd_caption(rng: Rng) -> bytes:
    """A caption as the web leaves it, or worse."""
    texts = [
        *(
            b"",
            b" \n",
            b"\xef\xbb\xbf",
            b"\xef\xbb\xbfa man",
            b"\xff\xfea\0 \0m\0",
            b"\xe9t\xe9",
            b"women&#39;s shoes",
            b"&#x110000;",
        ),
        *(
            b"a\0b",
            b"\x1b[31mred",
            b"[/red]nurse",
            b"a man\na woman\n\na dog",
            b"<script>alert(1)</script>",
            b"nurse " * 5000,
        ),
        *("الممرضة".encode(), "👩‍⚕️ nurse".encode(), "e\u0301".encode() * 500, rng.bytes(40)),
    ]
    return texts[int(rng.integers(len(texts)))]


def odd_json(rng: Rng) -> bytes:
    """Metadata that is no JSON, or JSON of another shape."""
    depth = int(rng.choice([10, 1000, 100_000]))
    texts = [
        *(
            b"",
            b"null",
            b"[]",
            b'"text"',
            b"7",
            b"{",
            b'{"a": }',
            b'{"gender": NaN}',
            b'{"gender": 1e999}',
            b"\xff\xfe{}",
        ),
        *(b'{"x": ' + b"[" * depth + b"]" * depth + b"}", b'{"gender": "woman", "gender": "man"}', b'{"\\ud800": 1}'),
        b'{"n": ' + b"9" * int(rng.choice([10, 5000])) + b"}",
    ]
    shapes = {
        key: odd_value(rng) for key in ("caption", "captions", "text", "gender", "occupation") if rng.random() < 0.5
    }
    with contextlib.suppress(TypeError, ValueError):
        texts += 10 * [json.dumps(shapes).encode("utf-8", "surrogateescape")]
    return texts[int(rng.integers(len(texts)))]


def odd_name(rng: Rng, number: int, end: str) -> str:
    """A member's name, mostly a sound one."""
    names = [
        *(
            f"photo.{number}.{end}",
            f"a/b/{number:06d}.{end}",
            f"{number:06d}.{end.upper()}",
            f"caf\udce9{number}.{end}",
        ),
        *(
            f"./{number}.{end}",
            f"../{number}.{end}",
            f".{end}",
            end,
            f"{number:06d}",
            f"[/red]{number}.{end}",
            f"{'k' * 300}.{end}",
        ),
        *(
            f"{number:06d}.unknown",
            f"__{number}__.{end}",
            f"{number} {number}.{end}",
            f"é{number}.{end}",
            f"a\n{number}.{end}",
        ),
    ]
    return names[int(rng.integers(len(names)))] if rng.random() < 0.15 else f"{number:06d}.{end}"


def odd_sample(rng: Rng, number: int) -> list[Member]:
    """The members of a sample of which one thing or another is wrong."""
    kind = IMAGE_KINDS[int(rng.integers(len(IMAGE_KINDS)))]
    encoded = image(rng, kind, size=int(rng.integers(1, 40)))
    if rng.random() < 0.4:
        encoded = (flip, cut, mutate)[int(rng.integers(3))](encoded, rng)
    members: list[Member] = [(kind[2], encoded)] if rng.random() < 0.9 else []
    if rng.random() < 0.8:
        members.append(("txt", odd_caption(rng) if rng.random() < 0.5 else b"a woman who is a nurse"))
    if rng.random() < 0.7:
        members.append(("json", odd_json(rng)))
    if rng.random() < 0.3:
        members.append(("cls", [b"0", b"1", b"99", b"-1", b"x", b"", b"1.0", b"9" * 5000][int(rng.integers(8))]))
    if rng.random() < 0.1:
        members.append(
            ([("pyd", b"\x80\x04."), ("pickle", b"cos\nsystem\n(S'touch pwned'\ntR."), ("npy", b"x")])[
                int(rng.integers(3))
            ]
        )
    named = [(odd_name(rng, number, end), data) for end, data in members]
    if named and rng.random() < 0.1:
        named.append(named[int(rng.integers(len(named)))])  # a member twice
    return named


def sample_contents(rng: Rng) -> tuple[str, bytes]:
    """The name and content of a sound tar with odd samples among sound ones."""
    members: list[Member] = []
    for number in range(int(rng.integers(1, 7))):
        members += sample(rng, number) if rng.random() < 0.3 else odd_sample(rng, number)
    return "s-00000.tar", write_tar(members, rng)


def write_layout(folder: Path, shard: tuple[str, bytes], rng: Rng) -> dict[str, Any]:
    """Lay a shard out as data people have: a plain folder, or CLIP_benchmark's with class names."""
    name, data = shard
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    classes = folder / "classes"
    (classes / "test").mkdir(parents=True)
    (classes / "test/0.tar").write_bytes(data)
    names = ["tench\n", "\n", "gold\u00e9fish\n", "[/red]\n", "\ufeffshark\n", "tench\n"]
    (classes / "classnames.txt").write_text("".join(rng.choice(names, size=int(rng.integers(0, 5)))), encoding="utf-8")
    (classes / "zeroshot_classification_templates.txt").write_text(["a {c}\n", "\n", "a {d}\n"][int(rng.integers(3))])
    return {"plain": str(folder / name), "classes": str(classes)}
