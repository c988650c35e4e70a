"""One annotator from several sources: captions, metadata, tables, pictures; each attribute has its own."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from balance.common.structure import expecting
from balance.errors import UserError
from balance.labels.captions import CaptionSource
from balance.labels.combined import CombinedSource
from balance.labels.metadata import JsonSource, resolve_auto
from balance.labels.pictures import Encoder, PictureSource
from balance.labels.tables import TableSource
from balance.stream.samples import SAMPLES_VERSION, Sample

EncoderFactory = Callable[[Mapping[str, Any]], Encoder]
"""Makes the model behind a pictures source from its `model` settings; the program gives it."""


class Source(Protocol):
    """Where some attributes and concepts come from."""

    s_names: list[str]
    y_names: list[str]
    proxies: list[str]
    needs: frozenset[str]
    """What it reads of a sample: `captions`, `meta`, `image`."""

    def describe(self) -> dict[str, Any]:
        """What decides the result, as plain data."""

    def annotate(self, samples: Sequence[Sample]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """(n, m) attributes and (n, c) concepts of n samples."""


class Annotator:
    """Several sources side by side.

    Attributes:
        s_names: names of the m attribute columns.
        y_names: names of the c concepts.
        proxies: those of `y_names` that only stand in for an attribute.
        needs: what is read of a sample: `captions`, `meta`, `image`.
        fingerprint: hex hash of all that decides the result; the same for the same settings and word lists.
    """

    def __init__(self, sources: Sequence[Source], fallbacks: Sequence[bool]) -> None:
        self._sources = list(sources)
        self.s_names: list[str] = []
        self.y_names: list[str] = []
        self.proxies: list[str] = []
        self._s_places: list[list[int]] = []
        for source, fallback in zip(sources, fallbacks, strict=True):
            for name in source.s_names:
                if (name in self.s_names) and not fallback:
                    raise UserError(
                        f"attributes: {name!r} comes from two sources; give the later one 'fallback: true' to "
                        f"fill only what is unknown."
                    )
            for name in source.y_names:
                if name in self.y_names:
                    raise UserError(
                        f"attributes: two sources give the concept {name!r}; set a 'prefix' for one of them."
                    )
            self.s_names += [name for name in source.s_names if name not in self.s_names]
            self.y_names += source.y_names
            self.proxies += source.proxies
            self._s_places.append([self.s_names.index(name) for name in source.s_names])
        if not self.s_names:
            raise UserError("attributes: no source gives an attribute; name at least one, or set balance=none.")
        if both := set(self.s_names) & set(self.y_names):
            raise UserError(
                f"attributes: {min(both)!r} is both an attribute and a concept; set a 'prefix' for the concepts."
            )
        self.needs = frozenset().union(*(source.needs for source in sources))
        described = {
            "samples": SAMPLES_VERSION,
            "sources": [source.describe() for source in sources],
            "fallbacks": list(map(bool, fallbacks)),
        }
        text = json.dumps(described, sort_keys=True, ensure_ascii=False)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:32]

    def annotate(self, samples: Sequence[Sample]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Attributes and concepts of n samples.

        Returns:
            s: (n, m) float32 in [0,1], NaN where unknown. y: (n, c) uint8, 0 or 1.
        """
        s = np.full((len(samples), len(self.s_names)), np.nan, np.float32)
        y = [np.zeros((len(samples), 0), np.uint8)]
        for source, places in zip(self._sources, self._s_places, strict=True):
            s_part, y_part = source.annotate(samples)
            s[:, places] = np.where(np.isnan(s[:, places]), s_part, s[:, places])
            y.append(y_part)
        return s, np.concatenate(y, axis=1)

    def words(self, samples: Sequence[Sample]) -> list[dict[str, list[str]]]:
        """For each sample the words that made its labels, by attribute and concept, as far as word lists made them."""
        found: list[dict[str, list[str]]] = [{} for _ in samples]
        for source in _leaves(self._sources):
            if isinstance(source, CaptionSource):
                for mine, theirs in zip(found, source.words(samples), strict=True):
                    mine.update(theirs)
        return found

    def take_disagreements(self) -> dict[str, list[int]]:
        """By column, samples that several sources of kind both know, and on how many they differ; then starts anew."""
        found: dict[str, list[int]] = {}
        for source in self._sources:
            if isinstance(source, CombinedSource):
                found |= source.take_disagreements()
        return found

    def check_labelled(self, files: Sequence[Path], shards: Sequence[str]) -> list[str]:
        """Hold the sources that are tables against all samples that were labelled; see `TableSource.check_labelled`."""
        tables = [source for source in _leaves(self._sources) if isinstance(source, TableSource)]
        return [sentence for table in tables for sentence in table.check_labelled(files, shards)]


def _leaves(sources: Sequence[Source]) -> list[Source]:
    """The sources themselves, those within sources of kind both too."""
    return [leaf for one in sources for leaf in (_leaves(one.sources) if isinstance(one, CombinedSource) else [one])]


def build_annotator(
    config: Mapping[str, Any], encoder: EncoderFactory | None = None, shards: Sequence[str] | None = None
) -> Annotator:
    """Make an annotator from the configuration group `attributes`.

    Args:
        config: `{name, sources: [{kind: captions | json | table | pictures | both, ...}]}`.
        encoder: makes the picture model; needed only where a source has `kind: pictures`.
        shards: where the values of `concepts: auto` are collected from; needed only for those.

    Raises:
        UserError: an unknown kind or key, a word list that is not there or not valid, names that clash.
    """
    if unknown := set(config) - {"name", "sources", "files"}:
        raise UserError(f"attributes: unknown key {min(unknown)!r}; known are name, sources and files.")
    sources = config.get("sources")
    if not isinstance(sources, Sequence) or isinstance(sources, str) or not sources:
        raise UserError("attributes.sources must be a list with at least one source.")
    if shards is not None:
        sources = [resolve_auto(source, shards) for source in sources]
    with expecting("attributes.sources"):
        built = [_build_source(source, encoder) for source in sources]
    for source in _leaves(built):
        if isinstance(source, TableSource) and shards is not None:
            source.check_shards(shards)
    return Annotator(built, [bool(source.get("fallback", False)) for source in sources])


def _build_source(config: Mapping[str, Any], encoder: EncoderFactory | None) -> Source:
    kind = config.get("kind") if isinstance(config, Mapping) else None
    if kind == "both":
        return CombinedSource(config, lambda part: _build_source(part, encoder))
    if kind == "captions":
        return CaptionSource(config)
    if kind == "json":
        return JsonSource(config)
    if kind == "table":
        return TableSource(config)
    if kind == "pictures":
        if encoder is None:
            raise UserError("attributes: this program has no picture model; annotate with scripts/annotate.py first.")
        return PictureSource(config, encoder(config.get("model") or {}))
    raise UserError(
        f"attributes: a source has kind {kind!r}; known kinds are captions, json, table, pictures and both."
    )
