"""From a shard's address to its bytes: a path, `file:`, `http(s)://`, a store, or a command that the user has allowed.

Every address is parsed here, after its pattern was expanded and before anything is opened. No library is handed an
address that was not parsed: WebDataset's own opener runs `pipe:` wherever it meets it.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from balance.errors import UserError
from balance.stream.stores import PACKAGES, open_object

ALLOW_PIPE = "data.allow_pipe=true"
_SCHEME = re.compile(r"(pipe|file):|([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_BROKEN_PIPE = (-13, 141)  # how a command ends, itself or by way of its shell, whose reader stopped early
_STORES = tuple(PACKAGES)
_WEB = ("http", "https")
_SIGNED = re.compile(r"[?&](?:[\w-]*signature|sig|token|access_token)=", re.IGNORECASE)


class RefusedAddress(UserError):
    """An address that is not opened, whether or not something is there."""


class ShellCommand(str):
    """A `pipe:` address that the user has allowed to run. A plain string that looks like one is refused."""


class Readable(Protocol):
    """What gives the next bytes, as many as it has."""

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer at the end."""


def scheme_of(url: str) -> str:
    """`pipe`, `file`, `https`, ... in lower case; empty for a path."""
    found = _SCHEME.match(url)
    return "" if found is None else (found[1] or found[2]).lower()


def is_local(url: str) -> bool:
    """Whether an address is a path on this machine."""
    return not scheme_of(url)


def check_address(url: str, what: str, allow_pipe: bool) -> str:
    """The address in the form that `open_shard` takes: `file:` as a path, an allowed command as a `ShellCommand`.

    Args:
        url: one address, its braces expanded.
        what: the name of the setting, for messages.
        allow_pipe: let `pipe:` addresses through.

    Raises:
        RefusedAddress: a command that was not allowed, or a scheme that is not known.
    """
    scheme = scheme_of(url)
    if scheme == "file":
        return _local_path(url, what)
    if scheme == "pipe":
        if not allow_pipe:
            raise RefusedAddress(
                f"{what}={url!r} would run a shell command for each shard; set {ALLOW_PIPE} if you trust it."
            )
        return ShellCommand(url)
    if scheme not in ("", *_WEB, *_STORES):
        raise RefusedAddress(
            f"{what}={url!r}: {scheme}:// is not read; paths, file://, {'://, '.join((*_WEB, *_STORES))}:// are. Copy "
            f"the shards to a disk, or read them by a command of your own: pipe:<command> with {ALLOW_PIPE}."
        )
    if scheme:
        _check_no_secret(url, what)
    return url


def _check_no_secret(url: str, what: str) -> None:
    """Addresses are written into runs, files and messages, so that they must hold no secret.

    Raises:
        RefusedAddress: a password before the machine's name, or a signature.
    """
    rest = url.partition("://")[2]
    if "@" in rest.partition("/")[0] or _SIGNED.search(rest):
        shown = rest.partition("/")[0].rpartition("@")[2]
        raise RefusedAddress(
            f"{what}: an address on {shown} holds a password or a signature, which would be written into the run's "
            "files; give credentials in the environment or in ~/.netrc."
        )


def is_store(url: str) -> bool:
    """Whether an address is of an object store, which can be listed."""
    return scheme_of(url) in _STORES


def _local_path(url: str, what: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise RefusedAddress(f"{what}={url!r} names another machine; write file:///<path>.")
    return url2pathname(parts.path)


@contextmanager
def open_shard(url: str) -> Iterator[Readable]:
    """Open a shard for reading from front to end.

    Args:
        url: from `check_address`.

    Raises:
        RefusedAddress: see `check_address`; a command must be a `ShellCommand`.
        OSError: the shard can't be opened or, raised while it is read, its command or download failed.
    """
    address = check_address(url, "the shard", isinstance(url, ShellCommand))
    if isinstance(address, ShellCommand):
        with _run(address.partition(":")[2]) as output:
            yield output
    elif is_local(address):
        with open(address, "rb") as file:
            yield file
    else:
        with open_object(address) as stream:
            yield stream


@contextmanager
def _run(command: str) -> Iterator["_Output"]:
    """What a command writes that the shell runs."""
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:
        try:
            yield _Output(process)
        finally:
            if process.poll() is None:  # its reader has stopped early
                process.kill()


class _Output:
    """The output of a command, which must succeed if it is read to its end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer at the end.

        Raises:
            OSError: the command failed.
        """
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size and (status := self._process.wait()) not in (0, *_BROKEN_PIPE):
            raise OSError(f"its command ended with status {status}")
        return data
