"""Object stores and the web as files: how they are reached, what they list, what identifies an object, and its bytes.

`s3://`, `gs://`, `az://` and `hf://` go through fsspec's file systems, `http(s)://` through requests. A connection that
breaks, stalls or is refused for now is tried again from the byte where it broke.
"""

import errno
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

import fsspec
import requests
import urllib3
from fsspec.asyn import AsyncFileSystem, sync
from requests.exceptions import InvalidSchema, InvalidURL

from balance.errors import UserError

log = logging.getLogger(__name__)

PACKAGES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "az": ("adlfs", "azure"), "hf": ("huggingface_hub", "")}
"""What reads a scheme, and the extra of this project that installs it."""
OPTIONS = {
    "endpoint_url": {"s3": "endpoint_url"},  # of S3 alone: the others would send their token there
    "region": {"s3": "client_kwargs.region_name"},
    "anon": {"s3": "anon", "az": "anon"},
    "profile": {"s3": "profile"},
    "project": {"gs": "project"},
    "account_name": {"az": "account_name"},
}
"""Keys of `data.storage`, and what the file system of each scheme calls them."""
PIECE = 8 << 20  # bytes of one request to a store
AHEAD = 2  # pieces that are fetched while another is read
_CHUNK = 1 << 16  # bytes read from a connection at a time: what arrived before it broke is kept
_SETTINGS = "COUNTERBALANCE_STORAGE"
_LONGEST_PAUSE = 30.0  # seconds
_TAGS = ("ETag", "etag", "generation", "blob_id")
T = TypeVar("T")


class Permanent(OSError):
    """A refusal that another try would not change."""


@dataclass(frozen=True)
class Storage:
    """How stores are reached.

    Attributes:
        options: keys of `OPTIONS`; credentials come from where each store's tools look for them.
        retries: times that a failed request is tried again before the shard counts as unreadable.
        timeout: seconds after which a request that brings nothing has failed.
        pause: seconds before the first new try; doubled for each further one.
    """

    options: dict[str, Any] = field(default_factory=dict)
    retries: int = 5
    timeout: float = 60.0
    pause: float = 0.5


def use_storage(storage: Storage) -> None:
    """Reach stores in this way, in this process and in those that it starts.

    Raises:
        UserError: an unknown option, or a secret, which would be written into the run's folder.
    """
    for name in storage.options:
        if name not in OPTIONS:
            raise UserError(
                f"data.storage.{name} is not known ({', '.join(OPTIONS)} are); secrets are never given here: set them "
                "as the store's own tools want them, in the environment or in their files."
            )
    if storage == Storage():
        os.environ.pop(_SETTINGS, None)
    else:  # inherited by workers, however they are started
        os.environ[_SETTINGS] = json.dumps(asdict(storage))


def storage_in_use() -> Storage:
    """What `use_storage` was given last, in this process or its parent."""
    return Storage(**json.loads(os.environ.get(_SETTINGS, "{}")))


def _file_system(scheme: str) -> Any:
    package, extra = PACKAGES[scheme]
    wanted: dict[str, Any] = {}
    for name, value in storage_in_use().options.items():
        outer, _, inner = OPTIONS[name].get(scheme, "").partition(".")
        if inner:
            wanted.setdefault(outer, {})[inner] = value
        elif outer:
            wanted[outer] = value
    if scheme == "gs" and storage_in_use().options.get("anon"):
        wanted["token"] = "anon"
    try:
        return fsspec.filesystem("abfs" if scheme == "az" else scheme, **wanted)
    except ImportError as error:
        install = f"pip install -e '.[{extra}]'" if extra else f"pip install {package}"
        raise UserError(f"{scheme}:// is read by {package}, which is not installed: {install}.") from error


def list_objects(url: str, glob: bool) -> list[str]:
    """Addresses of the objects below a prefix or, with `glob`, of those that a pattern matches, sorted.

    Raises:
        OSError: the store can't be listed.
        UserError: what reads this kind of store is not installed.
    """
    scheme, _, path = url.partition("://")
    system = _file_system(scheme.lower())
    found = _tried(lambda: system.glob(path) if glob else system.find(path.rstrip("/") + "/"), f"Listing {url}")
    return sorted(f"{scheme}://{name}" for name in found)


def object_identity(url: str) -> dict[str, Any]:
    """What tells that an object has changed: its size in bytes, and its ETag, generation or hash.

    What its server does not tell is left out.

    Raises:
        OSError: there is no such object, or it can't be reached.
    """
    if url.lower().startswith("http"):
        with _WebStream(url) as stream:
            return stream.identity
    return _store_identity(url)


def _store_identity(url: str) -> dict[str, Any]:
    scheme, _, path = url.partition("://")
    info = _tried(lambda: _file_system(scheme.lower()).info(path), f"{url}")
    tag = next((str(info[name]).strip('"') for name in _TAGS if info.get(name)), None)
    return {"size": info["size"]} | ({} if tag is None else {"tag": tag})


def open_object(url: str) -> "_WebStream | _StoreStream":
    """The bytes of an object from front to end; to be used in a `with` block.

    Raises:
        OSError: there is no such object, it can't be reached or, while it is read, all tries failed or it changed.
    """
    return _WebStream(url) if url.lower().startswith("http") else _StoreStream(url)


def _tried(request: Callable[[], T], what: str, closed: threading.Event | None = None) -> T:
    """What a request brings, tried again with growing pauses."""
    storage, closed = storage_in_use(), closed or threading.Event()
    for again in range(storage.retries + 1):
        try:
            return request()
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "there is no such object") from error
        except (PermissionError, Permanent, UserError, InvalidURL, InvalidSchema):
            raise
        except Exception as error:  # each store's client has its own kinds
            cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            if "Credential" in type(error).__name__:
                raise Permanent(cause) from error
            if again == storage.retries:
                raise OSError(f"{cause} (tried {again + 1} times)") from error
            pause = min(storage.pause * 2**again, _LONGEST_PAUSE)
            log.warning("%s: %s; try %d of %d in %.1f s.", what, cause, again + 2, storage.retries + 1, pause)
            if closed.wait(pause):
                raise
    raise AssertionError


class _StoreStream:
    """An object of a store, fetched in pieces ahead of its reader."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._scheme, _, self._path = url.partition("://")
        self.identity = _store_identity(url)
        self.size: int = self.identity["size"]
        self._asked, self._waiting = 0, memoryview(b"")
        self._closed = threading.Event()
        self._pieces: deque[Future[bytes]] = deque()
        self._pool = ThreadPoolExecutor(AHEAD)

    def __enter__(self) -> "_StoreStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def read(self, size: int, /) -> bytes:
        """So many bytes or fewer; none at the end."""
        while self._asked < self.size and len(self._pieces) < AHEAD:
            end = min(self._asked + PIECE, self.size)
            self._pieces.append(self._pool.submit(self._fetch, self._asked, end))
            self._asked = end
        if not self._waiting and self._pieces:
            self._waiting = memoryview(self._pieces.popleft().result())
            if not self._pieces and self._asked == self.size and self.size > PIECE:
                self._check_unchanged()
        data, self._waiting = self._waiting[:size], self._waiting[size:]
        return bytes(data)

    def _check_unchanged(self) -> None:
        """Pieces of two versions make no shard."""
        system = _file_system(self._scheme.lower())
        system.invalidate_cache()
        if _store_identity(self._url) != self.identity:
            raise Permanent("it changed while it was read")

    def _fetch(self, start: int, end: int) -> bytes:
        what = f"The shard {self._url} at byte {start:,}"
        return _tried(partial(self._request, start, end), what, self._closed)

    def _request(self, start: int, end: int) -> bytes:
        system, range_ = _file_system(self._scheme.lower()), {"start": start, "end": end}
        if isinstance(system, AsyncFileSystem):
            data = sync(system.loop, system._cat_file, self._path, timeout=storage_in_use().timeout, **range_)
        else:
            data = system.cat_file(self._path, **range_)
        if len(data) != end - start:
            raise OSError(f"{len(data):,} bytes came instead of {end - start:,}")
        return data


class _WebStream:
    """A file by HTTP: one connection, opened again at the byte where it broke."""

    def __init__(self, url: str) -> None:
        self._url, self._at = url, 0
        self._response: requests.Response | None = None
        self.identity: dict[str, Any] = {}
        self.size: int | None = None
        _tried(self._connect, f"The shard {url}")

    def __enter__(self) -> "_WebStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def read(self, size: int, /) -> bytes:
        """So many bytes or fewer; none at the end."""
        data = _tried(lambda: self._next(min(size, _CHUNK)), f"The shard {self._url} at byte {self._at:,}")
        self._at += len(data)
        return data

    def _next(self, size: int) -> bytes:
        try:
            raw = self._connect().raw
            data = raw.read(size, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError):
            self._drop()
            raise
        if not data and self.size is not None and self._at != self.size:
            self._drop()
            raise OSError(f"it ended at byte {self._at:,} of {self.size:,}")
        return data

    def _connect(self) -> requests.Response:
        """The open response, or a new one that goes on where the last broke off."""
        if self._response is not None:
            return self._response
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={self._at}-"} if self._at else {})
        response = requests.get(self._url, headers=headers, stream=True, timeout=storage_in_use().timeout)
        try:
            self._check(response)
        except BaseException:
            response.close()
            raise
        self._response = response
        return response

    def _check(self, response: requests.Response) -> None:
        status = response.status_code
        if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or status >= 500:
            raise OSError(f"{status} {response.reason}")
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise Permanent(f"{status} {response.reason}")
        identity = _web_identity(response)
        if not self.identity:
            self.identity, self.size = identity, identity.get("size")
        elif identity != self.identity:
            raise Permanent("it changed while it was read")
        if status == HTTPStatus.OK and self._at:  # this server knows no ranges
            left = self._at
            while left and (passed := response.raw.read(min(left, _CHUNK), decode_content=False)):
                left -= len(passed)


def _web_identity(response: requests.Response) -> dict[str, Any]:
    """Size of the whole file, and its tag: the ETag, or else when it was changed."""
    _, _, total = response.headers.get("Content-Range", "").partition("/")
    length = total if response.status_code == HTTPStatus.PARTIAL_CONTENT else response.headers.get("Content-Length", "")
    tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
    return ({"size": int(length)} if length.isdigit() else {}) | ({} if tag is None else {"tag": tag.strip('"')})
