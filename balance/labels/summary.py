"""What shards hold, by their attribute files: good samples, bad ones by cause, and what damaged shards lost."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balance.errors import UserError
from balance.labels.annotate_shard import APART, DOTS
from balance.labels.attributes import read_meta
from balance.stream.damage import Damage

_SHOWN = 5  # damaged shards named in a message
_ENOUGH = 1000
"""Samples after which the share of bad ones can stop the job before its end."""
_HINTS = {
    DOTS: "WebDataset ends a key at the first dot of a file's name, so that keys with dots fall together: keep "
    "the last dot of each name alone, as in photo_1.png for photo.1.png",
    APART: "the members of a sample must follow one another: sort them by name where the tar is made (tar --sort=name)",
}


@dataclass
class Summary:
    """What shards hold.

    Attributes:
        files: attribute files, one a shard, in the order of the shards.
        done: how many of them were there already.
        samples: good samples.
        bad: bad samples by cause.
        examples: for each cause one such sample, in words.
        damaged: shards whose reading ended early, by address.
        unknown: samples with an unknown value, by attribute column.
        differ: by attribute column, samples that several sources know, and on how many of them these differ.
        repeated: keys that more than one shard holds, at most ten of them, with how often.
        warnings: what else a user should know, a sentence each.
        seconds: wall-clock time.
    """

    files: list[Path] = field(default_factory=list)
    done: int = 0
    samples: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, Damage] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    differ: dict[str, list[int]] = field(default_factory=dict)
    repeated: list[tuple[str, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    _whole: Counter[str] = field(default_factory=Counter)  # shards that are not damaged, their samples, their bytes

    def add(self, meta: dict[str, Any]) -> None:
        """Count one shard's file, by its metadata."""
        shard = meta["shard"]
        self.samples += meta["samples"]
        self.bad.update(meta["bad"])
        self.unknown.update(meta["unknown"])
        for name, counts in meta.get("disagreements", {}).items():
            self.differ[name] = [a + b for a, b in zip(self.differ.get(name, [0, 0]), counts, strict=True)]
        for cause, example in meta.get("examples", {}).items():
            self.examples.setdefault(cause, f"{example} in {'/'.join(Path(shard).parts[-2:])}")
        if "damage" in meta:
            self.damaged[shard] = Damage.from_dict(meta["damage"])
            return
        samples, size = meta["samples"] + sum(meta["bad"].values()), meta["shard_id"].get("size")
        self._whole.update(shards=1, samples=samples)
        if size is not None:
            self._whole.update(bytes=size, measured=samples)

    def lost(self) -> dict[str, int]:
        """How many samples each damaged shard lost; an estimate where no index tells."""
        whole = self._whole
        each = whole["samples"] / whole["shards"] if whole["shards"] else None
        size = whole["bytes"] / whole["measured"] if whole["measured"] else None
        return {shard: damage.lost(each, size) for shard, damage in self.damaged.items()}

    def lines(self) -> list[str]:
        """The summary in words."""
        bad = f"{self.bad.total():,} bad" + (f": {self.causes()}" if self.bad else "")
        shards = f"{len(self.files):,} shards ({self.done:,} done before)"
        lines = [f"{shards}, {self.samples:,} good samples, {bad}"]
        if self.damaged:
            lines.append(f"{self.damage()}; what was whole before the damage is used")
        lines += self.warnings
        lines += [f"unknown {name}: {count / max(1, self.samples):.1%}" for name, count in self.unknown.items()]
        lines += self.disagreements()
        if self.repeated:
            shown = ", ".join(f"{key!r} ({count} times)" for key, count in self.repeated)
            lines.append(f"keys repeated across shards, the sampler can't tell such samples apart: {shown}")
        return lines

    def disagreements(self) -> list[str]:
        """How often the sources of an attribute differ, a sentence for each column that several know."""
        return [
            f"{name}: sources differ on {differ:,} of the {known:,} samples that several know ({differ / known:.1%})"
            for name, (known, differ) in self.differ.items()
            if known
        ]

    def causes(self) -> str:
        """Why samples are bad, with how many and an example each."""
        found = []
        for cause, count in self.bad.most_common():
            example = f" (such as {self.examples[cause]})" if cause in self.examples else ""
            hint = f"; {_HINTS[cause]}" if cause in _HINTS else ""
            found.append(f"{cause} {count:,}{example}{hint}")
        return ", ".join(found)

    def damage(self) -> str:
        """Which shards are damaged, why, and what they lost; empty if none is."""
        if not self.damaged:
            return ""
        lost, found = self.lost(), []
        for shard, damage in list(self.damaged.items())[:_SHOWN]:
            found.append(f"{shard} ({damage.cause}, {'about ' if damage.indexed is None else ''}{lost[shard]:,} lost)")
        more = f" and {len(self.damaged) - _SHOWN:,} more" if len(self.damaged) > _SHOWN else ""
        about = "about " if any(damage.indexed is None for damage in self.damaged.values()) else ""
        many = f"{len(self.damaged):,} of {len(self.files):,} shards"
        return f"{many} damaged, {about}{sum(lost.values()):,} samples lost: {', '.join(found)}{more}"

    def check(self, max_bad: float, final: bool = True) -> None:
        """Refuse data of which too much can't be used.

        Args:
            max_bad: share of samples that may be bad or lost.
            final: whether all shards are counted; before that, only a large number of samples decides.

        Raises:
            UserError: more is bad or lost, or no sample is good.
        """
        bad, lost = self.bad.total(), sum(self.lost().values())
        total = self.samples + bad + lost
        why = "; ".join(part for part in (self.causes(), self.damage()) if part)
        if final and not self.samples:
            raise UserError(f"The shards hold no good sample: {why or 'they are empty'}.")
        if (final or self.samples + bad >= _ENOUGH) and bad + lost > max_bad * total:
            counted = f"{bad:,} of {total:,} samples are bad" if not lost else (
                f"{bad + lost:,} of {total:,} samples are bad or lost"
            )  # fmt: skip
            raise UserError(
                f"{counted} ({(bad + lost) / total:.1%}, more than max_bad={max_bad:.1%}): {why}; mend the shards, or "
                "raise max_bad."
            )


def summarise(files: Iterable[str | Path]) -> Summary:
    """The summary of attribute files that are there already."""
    paths = [Path(path) for path in files]
    summary = Summary(files=paths, done=len(paths))
    for path in paths:
        summary.add(read_meta(path))
    return summary


def faults_of(files: Iterable[str | Path]) -> list[str]:
    """What a reader of figures should know of the shards behind attribute files, a sentence each: none if all is well.

    Files that say nothing of their shards, as those that others wrote, are left out.
    """
    summary = Summary()
    for path in map(Path, files):
        try:
            summary.add(read_meta(path))
        except (UserError, KeyError):
            continue
        summary.files.append(path)
    total = summary.samples + summary.bad.total()
    bad = [f"{summary.bad.total():,} of {total:,} samples are bad and left out: {summary.causes()}."]
    differ = [f"{sentence}." for sentence in summary.disagreements()]
    return (bad if summary.bad else []) + ([f"{summary.damage()}."] if summary.damaged else []) + differ
