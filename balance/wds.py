"""A stage for webdataset pipelines that drops and repeats samples by a plan, before anything is decoded.

    dataset = wds.WebDataset(urls, shardshuffle=100).compose(balance.wds.balanced("plan", "attributes"))
    dataset = dataset.shuffle(5000).decode("pil").to_tuple("jpg", "txt")

Nothing of webdataset is imported: the stage takes and gives samples as they are, dictionaries with `__key__`.
"""

from __future__ import annotations

import glob
import multiprocessing
import os
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

import numpy as np

from balance.errors import UserError
from balance.m4.plan import Plan
from balance.stream.sampler import key_uniforms, uses_of

_SHARDS_HELD = 8  # whose rates are kept at a time: samples of a few shards may come mixed
_MOST_WORKERS = 4096

Numbers = dict[str, tuple[float, float]]
"""By key: the rate q, and the key's number u in [0, 1)."""


class Balanced:
    """The stage: call it with samples to get those that are used, each as often as it is used in this epoch.

    In an epoch a sample with rate q is used floor((e + 1) q + u) - floor(e q + u) times, u being a hash of seed and
    key: E q times in E epochs to within one use, and the same uses as our own stream draws with the same seed.

    Each pass over the data is an epoch, counted from 0 by each loader worker, also where workers are started anew for
    each epoch; `set_epoch` names it, as a resumed run must. A repeated sample comes several times in a row, so
    shuffle after this stage.
    """

    def __init__(self, numbers: _Numbers, resampled: bool = False) -> None:
        self._numbers, self._resampled = numbers, resampled
        # Shared with loader workers: the epoch, and how many passes each worker has begun since it was set.
        self._epoch: Any = multiprocessing.Value("q", 0)
        self._passes: Any = multiprocessing.Array("q", _MOST_WORKERS)

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch of the next pass, in this process and in loader workers that it has started or will start."""
        with self._epoch.get_lock():
            self._epoch.value = epoch
            self._passes[:] = [0] * _MOST_WORKERS

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The samples that are used, as webdataset hands them on.

        Raises:
            UserError: a sample of a shard without attribute file, or a shard of which no key is known.
        """
        worker = _worker()
        with self._epoch.get_lock():
            epoch = self._epoch.value + self._passes[worker % _MOST_WORKERS]
            self._passes[worker % _MOST_WORKERS] += 1
        rng = np.random.default_rng([epoch, worker, int.from_bytes(os.urandom(8))]) if self._resampled else None
        for sample in samples:
            found = self._numbers.of(sample)
            if found is None:  # bad when the data were labelled
                continue
            q, u = found
            uses = int(q + rng.random()) if rng is not None else int(uses_of(np.array([q]), np.array([u]), epoch)[0])
            for use in range(uses):
                yield sample if use == 0 else dict(sample)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if get_spawning_popen() is None:  # copied, not handed to a worker
            state["_epoch"], state["_passes"] = self._epoch.value, list(self._passes)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self._epoch, int):
            self._epoch = multiprocessing.Value("q", self._epoch)
            self._passes = multiprocessing.Array("q", self._passes)


def balanced(
    plan: Plan | str | os.PathLike[str],
    attributes: str | os.PathLike[str],
    *,
    seed: int = 0,
    resampled: bool = False,
) -> Balanced:
    """A stage for `WebDataset.compose`, by a plan and the attribute files of the shards.

    Args:
        plan: a plan, or the folder of one (`scripts/solve.py`, or `plan/` in a run's folder).
        attributes: the folder of attribute files (`scripts/annotate.py`, or `cache/attributes/...` of a run).
        seed: decides which epochs a sample is used in.
        resampled: each visit of a sample is a draw of its own, for pipelines that draw shards with replacement
            (`resampled=True`, `with_epoch`), in which passes over the data are not epochs.

    Raises:
        UserError: there is no plan, or there are no attribute files.
    """
    if not isinstance(plan, Plan):
        from balance.m4.planfile import load_plan

        plan = load_plan(Path(plan))
    if not any(Path(attributes).glob("*.parquet")):
        raise UserError(f"{attributes} holds no attribute files; make them with scripts/annotate.py.")
    return Balanced(_Labelled(plan, str(attributes), seed), resampled)


def by_key(rates: Mapping[str, float], *, seed: int = 0, resampled: bool = False) -> Balanced:
    """A stage as `balanced` gives, from the rates of keys: `by_key(dict(zip(df["key"], df["rate"])))`.

    Samples whose key has no rate are dropped.
    """
    keys = list(rates)
    if any(rate < 0 or rate != rate for rate in rates.values()):
        raise UserError("rates must be numbers of at least 0.")
    numbers = zip(map(float, rates.values()), key_uniforms(keys, seed).tolist(), strict=True)
    return Balanced(_Given(dict(zip(keys, numbers, strict=True))), resampled)


class _Numbers:
    """Where the numbers of a sample come from."""

    def of(self, sample: Mapping[str, Any]) -> tuple[float, float] | None:
        """Rate q and number u of a sample; None if it is not to be used."""
        raise NotImplementedError


class _Given(_Numbers):
    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def of(self, sample: Mapping[str, Any]) -> tuple[float, float] | None:
        return self._numbers.get(_key(sample))


class _Labelled(_Numbers):
    """By attribute files, one shard at a time."""

    def __init__(self, plan: Plan, folder: str, seed: int) -> None:
        self._plan, self._folder, self._seed = plan, folder, seed
        self._held: OrderedDict[str, Numbers] = OrderedDict()
        self._strange: dict[str, int] = {}  # samples of a shard before the first whose key is known

    def of(self, sample: Mapping[str, Any]) -> tuple[float, float] | None:
        url = str(sample.get("__url__", ""))
        if url not in self._held:
            self._held[url] = self._read(url)
            self._strange[url] = 0
            if len(self._held) > _SHARDS_HELD:
                self._strange.pop(self._held.popitem(last=False)[0])
        found = self._held[url].get(_key(sample))
        if found is not None:
            self._strange[url] = -1
        elif self._strange[url] >= 0:
            self._strange[url] += 1
            if self._strange[url] > max(100, len(self._held[url])):
                raise UserError(
                    f"None of the first {self._strange[url]:,} samples of {url} is in its attribute file, the last "
                    f"with the key {_key(sample)!r}; label these shards with scripts/annotate.py."
                )
        return found

    def _read(self, url: str) -> Numbers:
        from balance.labels.attributes import read_attributes
        from balance.subset.choice import rates_by

        read = read_attributes(attribute_file(self._folder, url))
        rates = rates_by(self._plan, read, self._folder).tolist()
        return dict(zip(read.keys, zip(rates, key_uniforms(read.keys, self._seed).tolist(), strict=True), strict=True))


def attribute_file(folder: str, url: str) -> Path:
    """The attribute file of a shard: that of its address, or else the only one of a shard of the same name.

    Raises:
        UserError: there is none, or several of that name.
    """
    from balance.labels.attributes import attribute_path

    path = attribute_path(folder, url)
    if path.is_file():
        return path
    stem = path.stem[: -len("-01234567")]
    others = sorted(Path(folder).glob(f"{glob.escape(stem)}-{'[0-9a-f]' * 8}.parquet"))
    if len(others) == 1:
        return others[0]
    why = f"{len(others)} of shards of that name elsewhere" if others else "none for a shard of that name"
    raise UserError(f"{folder} holds no attribute file for the shard {url}, and {why}; run scripts/annotate.py on it.")


def _key(sample: Mapping[str, Any]) -> str:
    """The key as attribute files have it: bytes that are not UTF-8 as a backslash, an x and two hex digits."""
    key = str(sample["__key__"])
    return key if key.isascii() else key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _worker() -> int:
    """The number of this loader worker; 0 outside of one."""
    data = sys.modules.get("torch.utils.data")  # a worker of a DataLoader has loaded it
    found = data.get_worker_info() if data is not None else None
    return 0 if found is None else int(found.id)
