"""The tables of an audit as CSV."""

import csv
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from balance.audit import DataBias
from balance.changes import Change
from balance.files import whole_file
from balance.intersections import Intersection


def write_tables(
    out: Path,
    before: DataBias,
    after: DataBias | None,
    combined: Sequence[Intersection],
    combined_after: Sequence[Intersection] | None,
) -> None:
    """Write attributes.csv, associations.csv and intersections.csv into a folder."""
    write_csv(out / "attributes.csv", (_attribute(before, after, k) for k in range(len(before.s_names))))
    write_csv(out / "associations.csv", (_association(before, after, k, r) for k, r in before.order()))
    shares_after = {one.names: one.share for one in combined_after or ()}
    rows = []
    for one in combined:
        row = {"first": one.names[0], "second": one.names[1], "count": one.count, "share": one.share, "low": one.low,
               "high": one.high, "independent": one.independent}  # fmt: skip
        rows.append(row | ({"share_after": shares_after.get(one.names)} if combined_after is not None else {}))
    write_csv(out / "intersections.csv", rows)


def _attribute(before: DataBias, after: DataBias | None, k: int) -> dict[str, Any]:
    row = {"attribute": before.s_names[k], "target": before.pi[k], "unknown": before.unknown[k]}
    for suffix, one in (("", before), ("_after", after)):
        if one is not None:
            share = one.representation
            row |= {f"share{suffix}": share.value[k], f"low{suffix}": share.low[k], f"high{suffix}": share.high[k]}
    return row


def _association(before: DataBias, after: DataBias | None, k: int, r: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "attribute": before.s_names[k],
        "concept": before.y_names[r],
        "proxy": bool(before.proxies[r]),
        "samples": before.concept_count[r],
        "samples_known": before.known_count[k, r],
    }
    for suffix, one in (("", before), ("_after", after)):
        if one is None:
            continue
        for name, part in (("association", one.association), ("share", one.concept_share)):
            row |= {f"{name}{suffix}": part.value[k, r], f"{name}_low{suffix}": part.low[k, r],
                    f"{name}_high{suffix}": part.high[k, r]}  # fmt: skip
    row |= {"p": before.p[k, r], "p_adjusted": before.p_adjusted[k, r]}
    return row | ({"mean_rate": after.concept_rate[r]} if after is not None else {})


def write_changes(path: Path, changes: Sequence[Change]) -> None:
    """Write the differences between two data sets."""
    write_csv(path, (dataclasses.asdict(change) for change in changes))


def write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows with equal keys, whole or not at all; numbers with six digits."""
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
