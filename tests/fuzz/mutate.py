"""Mutations of bytes, and odd values for whatever takes a value; every draw comes from the generator that is given."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator

ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 1e-9, 0.5, -0.5, 1.5, 1e9, -1e9, 10**30, float("nan"), float("inf")),
    *(
        "",
        " ",
        "a",
        "0",
        "-1",
        "nan",
        "null",
        "true",
        "../..",
        "/etc/passwd",
        "a/b",
        "\x1b[31m",
        "[/red]x",
        "é",
        "\udce9",
    ),
    *(
        "${oc.env:HOME}",
        "${missing}",
        "${",
        "{",
        "}",
        "[",
        "builtins:eval",
        "pipe:touch pwned",
        "x.tar::pipe:touch pwned",
    ),
    *("file:///x", "s3://bucket/x", "{a,b}", "*" * 50, "a" * 5000, [], [None], [[]], ["a"], [1, 2, 3], {}, {"a": 1}),
    *({"a": {"b": {"c": None}}}, {1: 2}, {"kind": "builtins:eval"}, [{"kind": "parity"}]),
]


def odd_value(rng: Rng) -> Any:
    """A value that a person or a program might have left there by mistake, or on purpose."""
    return ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]


def flip(data: bytes, rng: Rng) -> bytes:
    """Change one to eight bytes."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if changed:
            changed[int(rng.integers(len(changed)))] = int(rng.integers(256))
    return bytes(changed)


def cut(data: bytes, rng: Rng) -> bytes:
    """Keep a beginning."""
    return data[: int(rng.integers(len(data) + 1))]


def drop(data: bytes, rng: Rng) -> bytes:
    """Leave a stretch out."""
    start = int(rng.integers(len(data) + 1))
    return data[:start] + data[start + int(rng.integers(1, 2000)) :]


def zero(data: bytes, rng: Rng) -> bytes:
    """Zero a stretch, as a lost block does."""
    start, size = int(rng.integers(len(data) + 1)), int(rng.integers(1, 4096))
    return data[:start] + b"\0" * min(size, len(data) - start) + data[start + size :]


def double(data: bytes, rng: Rng) -> bytes:
    """Repeat a stretch."""
    start = int(rng.integers(len(data) + 1))
    end = start + int(rng.integers(1, 2000))
    return data[:end] + data[start:end] + data[end:]


def insert(data: bytes, rng: Rng) -> bytes:
    """Insert random bytes."""
    start = int(rng.integers(len(data) + 1))
    return data[:start] + rng.bytes(int(rng.integers(1, 600))) + data[start:]


def replace(data: bytes, rng: Rng) -> bytes:
    """Something else altogether: nothing, noise, zeros, an error page, a text."""
    others = [
        b"",
        rng.bytes(int(rng.integers(1, 5000))),
        b"\0" * len(data),
        b"<html>502 Bad Gateway</html>",
        b"hello\n",
    ]
    return others[int(rng.integers(len(others)))]


def pack(data: bytes, rng: Rng) -> bytes:
    """Compress it, and cut that short now and then."""
    packers: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress]
    packed = packers[int(rng.integers(len(packers)))](data)
    return cut(packed, rng) if rng.random() < 0.3 else packed


BYTE_MUTATIONS = (flip, flip, flip, cut, drop, zero, double, insert, replace)


def mutate(data: bytes, rng: Rng) -> bytes:
    """One or two random mutations."""
    for _ in range(int(rng.integers(1, 3))):
        data = BYTE_MUTATIONS[int(rng.integers(len(BYTE_MUTATIONS)))](data, rng)
    return data
