"""Compare two models, or one treatment of several models, by the Wilcoxon signed-rank test over matched figures.

    python scripts/compare_models.py first=runs/evaluations/a second=runs/evaluations/b metric=difference

first, second: folders of scripts/evaluate.py (or metrics.jsonl files), or lists [a1,a2,...], matched one to one.
With one folder a side, pairs are the figures of one family: all names that contain metric, such as the concepts of an
association. With several, pairs are the folders, for each figure whose name contains metric.
"""

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from balance.common.metric import read_metrics
from balance.common.terminal import Table, terminal
from balance.errors import UserError
from conf.app.command import run_command, split_options
from eval.signed_rank import match, wilcoxon

OPTIONS: dict[str, Any] = {"first": None, "second": None, "metric": ""}


def main(arguments: list[str]) -> None:
    options, rest = split_options(arguments, OPTIONS)
    if rest or not (options["first"] and options["second"]):
        raise UserError("first and second must be given, and besides them metric alone.")
    sides = [_read_side(options[key]) for key in ("first", "second")]
    if len(sides[0]) != len(sides[1]):
        raise UserError(f"first has {len(sides[0])} folders and second {len(sides[1])}; they are matched one to one.")
    wanted = str(options["metric"])
    table = Table(title=f"{options['first']} against {options['second']}")
    for heading in ("figures", "pairs", "median difference", "statistic", "p"):
        table.add_column(heading, overflow="fold")
    for name, first, second in _pairs(sides[0], sides[1], wanted):
        found = wilcoxon(first, second)
        row = [str(found.n), f"{found.median_difference:+.4f}", f"{found.statistic:g}", f"{found.p:.4g}"]
        table.add_row(name.replace("[", r"\["), *row)
    terminal().print(table)


def _pairs(
    first: list[dict[str, float]], second: list[dict[str, float]], wanted: str
) -> list[tuple[str, list[float], list[float]]]:
    """(name, values of the first, values of the second) of each test."""
    if len(first) == 1:
        chosen = {name: value for name, value in first[0].items() if wanted in name}
        if not chosen:
            raise UserError(f"No figure has {wanted!r} in its name.")
        return [(f"*{wanted}*", *match(chosen, second[0]))]
    names = [name for name in first[0] if wanted in name and all(name in one for one in [*first, *second])]
    if not names:
        raise UserError(f"No figure with {wanted!r} in its name is in all folders.")
    return [(name, [one[name] for one in first], [one[name] for one in second]) for name in names]


def _read_side(given: Any) -> list[dict[str, float]]:
    found = []
    for one in given if isinstance(given, list) else [given]:
        path = Path(str(one)).expanduser()
        path = path / "metrics.jsonl" if path.is_dir() else path
        rows = read_metrics(path)
        if not rows:
            raise UserError(f"{path} has no figures.")
        # The last value of a name counts, which in a training run is that of the last epoch.
        found.append({row["name"]: float(row["value"]) for row in rows if row.get("value") is not None})
    return found


if __name__ == "__main__":
    run_command(main, __doc__, bare=False)
