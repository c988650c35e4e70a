"""Human ratings of faces: their means, and how far raters agree."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from balance.errors import UserError
from eval.options import stimuli
from eval.sets import EvalSet
from eval.stats import Floats


@dataclass(frozen=True)
class Attribute:
    """An attribute that faces are rated on.

    Attributes:
        name: as in the table of ratings.
        positive: the prompt of more of it.
        negative: the prompt of its opposite, or of anyone.
        reliability: agreement of the raters, in [0, 1]; None where unknown.
    """

    name: str
    positive: str
    negative: str
    reliability: float | None


def built_in_attributes() -> list[Attribute]:
    """The 34 attributes of One Million Impressions."""
    content = stimuli("impressions")
    return [
        Attribute(
            name,
            content["template"].replace("{c}", spec["positive"]),
            content["template"].replace("{c}", spec["negative"]) if "negative" in spec else content["anyone"],
            spec["reliability"],
        )
        for name, spec in content["attributes"].items()
    ]


def mean_ratings(table: Path, data: EvalSet, attributes: Sequence[str]) -> Floats:
    """Mean ratings of a set's faces, (faces, attributes), from a table with a row per face.

    Args:
        table: CSV with the column `stimulus`, the name of the picture's file with or without its ending.
        data: the faces.
        attributes: columns to take.

    Raises:
        UserError: a column, or the row of a picture, is missing, or a rating is not a number.
    """
    with open(table, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    for column in ("stimulus", *attributes):
        if column not in columns:
            raise UserError(f"The table of ratings {table} has no column {column!r}; it has {', '.join(columns)}.")
    by_face = {Path(row["stimulus"]).stem: row for row in rows}
    absent = [key for key in data.keys if Path(key).stem not in by_face]
    if absent:
        raise UserError(
            f"{len(absent)} of {len(data)} pictures of the set {data.name} have no row in the ratings {table}, "
            f"such as {absent[0]}; a row's `stimulus` must be the picture's name."
        )
    found = np.array([[_number(by_face[Path(key).stem][a], a, key) for a in attributes] for key in data.keys])
    for column, name in zip(found.T, attributes, strict=True):
        if (column == column[0]).all():
            raise UserError(
                f"The ratings of {name} in {table} are the same for all faces; a rank correlation needs two."
            )
    return found


def _number(text: Any, attribute: str, face: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = float("nan")
    if not np.isfinite(value):
        raise UserError(f"The rating of {attribute} of {face} is {text!r}, not a number.")
    return value


def reliability_from_table(path: Path, column: str = "published_irr_percent") -> dict[str, float]:
    """Reliability in [0, 1] by attribute, from a CSV file with `attribute` and a column of per cent or shares.

    Raises:
        UserError: a column is missing.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"attribute", column} <= set(rows[0]):
        raise UserError(f"The table of reliabilities {path} needs the columns attribute and {column}.")
    found = {row["attribute"]: _number(row[column], "reliability", row["attribute"]) for row in rows}
    scale = 100 if max(found.values()) > 1 else 1
    return {name: value / scale for name, value in found.items()}


def reliability_from_raw(
    path: Path, rng: np.random.Generator, splits: int = 20, without: Mapping[str, Sequence[Any]] | None = None
) -> dict[str, float]:
    """Reliability from all raw ratings: the squared correlation of the faces' means in two random halves.

    Halves are drawn `splits` times and the squares averaged. There is no Spearman-Brown correction, as in the source.

    Args:
        path: CSV (compressed or not) with the columns `stimulus`, `attribute` and `rating`, a row per rating.
        rng: source of the halves.
        splits: how many.
        without: lines to leave out, column -> values. By default none: the publication counted all, a rater's repeated
            ratings and fill-ins among them, though two ratings of one rater agree more than two raters do.

    Raises:
        UserError: a column or a value of `without` is missing, or an attribute has too few ratings.
    """
    import pandas as pd  # a second to import, and only needed here

    table = pd.read_csv(path)
    absent = {"stimulus", "attribute", "rating"} - set(table.columns)
    if absent:
        raise UserError(f"The raw ratings {path} have no column {', '.join(sorted(absent))}.")
    for column, values in (without or {}).items():
        if column not in table.columns:
            raise UserError(f"raw_without names {column}; the raw ratings {path} have {', '.join(table.columns)}.")
        there = table[column].astype(str)
        unknown = [str(value) for value in values if str(value) not in set(there)]
        if unknown:
            raise UserError(
                f"raw_without.{column}: no line has {unknown[0]}; it has {', '.join(sorted(set(there))[:10])}."
            )
        table = table[~there.isin([str(value) for value in values])]
    found = {}
    for attribute, rows in table.dropna(subset=["rating"]).groupby("attribute"):
        faces, values = pd.factorize(rows["stimulus"])[0], rows["rating"].to_numpy(dtype=np.float64)
        found[str(attribute)] = float(np.mean([_split_half(faces, values, rng) for _ in range(splits)]))
        if not np.isfinite(found[str(attribute)]):
            raise UserError(f"The raw ratings {path} have too few ratings of {attribute} for two halves.")
    return found


@dataclass(frozen=True)
class Agreement:
    """How reliabilities compare with the published ones.

    Attributes:
        count: attributes that have both.
        rank: Spearman's correlation.
        rms: root mean square of the differences.
        largest: the largest difference, and `attribute`, whose it is.
    """

    count: int
    rank: float
    rms: float
    largest: float
    attribute: str


def agreement_with_published(found: Mapping[str, float]) -> Agreement | None:
    """Compare reliabilities by attribute with the published ones; None for fewer than three that are in both."""
    published = {a.name: a.reliability for a in built_in_attributes() if a.reliability is not None}
    names = [name for name in found if name in published]
    if len(names) < 3:
        return None
    ours, theirs = np.array([found[name] for name in names]), np.array([published[name] for name in names])
    apart = np.abs(ours - theirs)
    place = int(apart.argmax())
    rank = float(spearmanr(ours, theirs).statistic)
    return Agreement(len(names), rank, float(np.sqrt((apart**2).mean())), float(apart[place]), names[place])


def _split_half(faces: Any, values: Floats, rng: np.random.Generator) -> float:
    """The squared correlation of the means of one random half with those of the other, over faces rated in both."""
    half = rng.permutation(len(values)) < len(values) // 2
    sides = []
    for chosen in (half, ~half):
        counts = np.bincount(faces[chosen], minlength=int(faces.max()) + 1)
        sums = np.bincount(faces[chosen], weights=values[chosen], minlength=int(faces.max()) + 1)
        sides.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
    both = np.isfinite(sides[0]) & np.isfinite(sides[1])
    if both.sum() < 3 or not (np.ptp(sides[0][both]) and np.ptp(sides[1][both])):
        return float("nan")
    return float(np.corrcoef(sides[0][both], sides[1][both])[0, 1] ** 2)
