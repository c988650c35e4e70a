"""What evaluations were measured on, and what they left out, as pages show it."""

from collections.abc import Mapping
from typing import Any


def sets_rows(sets: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each evaluation set: `name`, `images`, `left_out` and `causes`: (cause, samples, an example or "").

    Args:
        sets: name -> {images, left_out: {cause: samples}, examples: {cause: key}}, as `Suite.sets_read` gives it.
    """
    rows = []
    for name, found in sets.items():
        left_out, examples = found.get("left_out") or {}, found.get("examples") or {}
        causes = [(cause, int(number), str(examples.get(cause, ""))) for cause, number in left_out.items()]
        rows.append({"name": name, "images": found["images"], "left_out": sum(left_out.values()), "causes": causes})
    return rows
