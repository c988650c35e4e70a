"""What scripts/label_check.py found, for those who use the labels: `label_check.json`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balance.errors import UserError
from balance.labels.checking import CONCEPT, POOR, Share, attribute_values


@dataclass(frozen=True)
class LabelCheck:
    """How right labels were found to be.

    Attributes:
        path: where it was read from.
        annotator: fingerprint of what made the labels.
        known: by attribute, how often a known label is right.
        precision: by attribute and value.
        recall: by attribute and value.
        shares: by attribute and value, its share among samples of known truth: what the data show, without the labels'
            errors.
        confusion: by attribute, truth (values and `none`) and label (values and `unknown`): share of all samples.
        concepts: how often a mention of a concept is right; None if that was not judged.
    """

    path: Path
    annotator: str
    known: dict[str, Share]
    precision: dict[str, dict[str, Share]]
    recall: dict[str, dict[str, Share]]
    shares: dict[str, dict[str, Share]]
    confusion: dict[str, dict[str, dict[str, float]]]
    concepts: Share | None

    def evidence(self, column: str) -> tuple[float, float, float] | None:
        """What a label of a column tells of those whom captions speak of.

        Returns:
            The share of its value, and how likely the value is where the label says so, and where it says another
            value; None where too little was judged.
        """
        attribute, one_hot, value = column.partition("=")
        value = value if one_hot else attribute
        table = self.confusion.get(attribute)
        share = self.share(column)
        if table is None or share is None or value not in self.precision[attribute]:
            return None
        values = list(self.precision[attribute])
        yes = sum(table[truth][value] for truth in values)
        no = sum(table[truth][label] for truth in values for label in values if label != value)
        if not yes or not no:
            return None
        wrong = sum(table[value][label] for label in values if label != value)
        return share.value, table[value][value] / yes, wrong / no

    def share(self, column: str) -> Share | None:
        """The share of an attribute column without the labels' errors; None where it was not judged."""
        attribute, one_hot, value = column.partition("=")
        found = self.shares.get(attribute, {}).get(value if one_hot else attribute)
        return found if found is not None and found.value == found.value else None

    def notes(self, s_names: Iterable[str]) -> list[str]:
        """What a reader of figures should know, a sentence each."""
        sentences = []
        for attribute in attribute_values(list(s_names)):
            if attribute not in self.known:
                continue
            known, recall = self.known[attribute], self.recall[attribute]
            caught = ", ".join(f"{value} {share.value:.2f}" for value, share in recall.items() if share.judged)
            sentences.append(
                f"Labels of {attribute!r} were read: right in {known}; of those whom captions speak of they "
                f"find {caught}."
            )
            if known.value < POOR:
                sentences.append(self._poor(attribute, known))
        if self.concepts is not None:
            sentences.append(f"Concepts were read: right in {self.concepts}.")
            if self.concepts.value < POOR:
                sentences.append(self._poor(CONCEPT, self.concepts))
        return sentences

    @staticmethod
    def _poor(what: str, share: Share) -> str:
        sure = "" if share.high >= POOR else ", surely"
        return (
            f"Labels of {what!r} are too poor to balance on{sure}: {1 - share.value:.0%} are wrong, more than "
            f"{1 - POOR:.0%}, so that RB, AB and a plan are about wording; give better labels first."
        )


def read_check(path: str | Path) -> LabelCheck:
    """Read a label check.

    Args:
        path: `label_check.json`, or its folder.

    Raises:
        UserError: no such file, or none of ours.
    """
    file = Path(path)
    file = file / "label_check.json" if file.is_dir() else file
    try:
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        attributes = raw["attributes"]

        def of(key: str) -> dict[str, dict[str, Share]]:
            return {name: {value: _share(row) for value, row in one[key].items()} for name, one in attributes.items()}

        return LabelCheck(
            path=file,
            annotator=raw["annotator"],
            known={name: _share(one["known"]) for name, one in attributes.items()},
            precision=of("precision"),
            recall=of("recall"),
            shares=of("shares"),
            confusion={name: one["confusion"] for name, one in attributes.items()},
            concepts=None if raw["concepts"] is None else _share(raw["concepts"]["precision"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no file that scripts/label_check.py read=... wrote: {error!r}.") from error


def _share(row: list[float]) -> Share:
    value, low, high, judged = row
    return Share(float(value), float(low), float(high), int(judged))
