"""One self-contained page for a run: what balancing did to the data, and how bias and quality moved."""

import json
import os
import platform
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import yaml

from eval.charts import dumbbell_chart, line_chart
from eval.track import read_metrics

Row = dict[str, Any]
PACKAGES = ("torch", "open_clip_torch", "webdataset", "accelerate", "numpy")


def write_report(folder: Path) -> Path:
    """Build `report.html` anew from the files of a run's folder; the path of the page."""
    page = render(folder)
    path = folder / "report.html"
    part = path.with_suffix(".part")
    part.write_text(page, encoding="utf-8")
    os.replace(part, path)
    return path


def render(folder: Path) -> str:
    """The page as text."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    rows = read_metrics(folder / "metrics.jsonl")
    data = _read_json(folder / "plan" / "data.json")
    series = by_name(rows)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        config=config,
        config_text=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        data=data,
        headline=_headline(config, series),
        data_charts=_data_charts(data),
        charts=_charts(series),
        training=_training(series),
        final=final_table(series),
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def by_name(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows of each metric, in the order of the run."""
    series: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        series[row["name"]].append(row)
    return series


def final_table(series: dict[str, list[Row]]) -> list[Row]:
    """The last value of each evaluation metric, with the first beside it."""
    skip = ("train/", "accepted/", "data/", "eval/")
    return [{**rows[-1], "first": rows[0]["value"]} for name, rows in series.items() if not name.startswith(skip)]


def _headline(config: Row, series: dict[str, list[Row]]) -> list[Row]:
    """The metrics that the configuration names as its summary, last values."""
    wanted = config["eval"].get("headline") or {}
    return [{"label": label, **series[name][-1]} for label, name in wanted.items() if series.get(name)]


def _data_charts(data: Row) -> list[str]:
    """Before and after inside each concept, one chart per attribute with a target."""
    charts = []
    for attribute in data.get("inside", []):
        rows = [(row["concept"], row["before"], row["after"]) for row in attribute["rows"]]
        rows = sorted(rows, key=lambda row: -abs(row[1] - attribute["target"]))[:30]
        title = f"Share of {attribute['attribute']} within each concept"
        charts.append(dumbbell_chart(title, rows, "share among samples where it is known", attribute["target"]))
    return charts


def _charts(series: dict[str, list[Row]]) -> list[str]:
    """One chart per evaluator's plain metrics; those of single concepts or groups share one."""
    families: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in series:
        if "/" in name and not name.startswith(("train/", "accepted/", "data/", "eval/")):
            evaluator, metric = name.split("/", 1)
            families[evaluator, metric.split("[")[0]].append(name)
    charts = []
    for (evaluator, metric), names in families.items():
        names = sorted(names, key=lambda name: -abs(series[name][-1]["value"]))[:7]
        lines: list[dict[str, Any]] = [
            {
                "label": name.split("[")[1].rstrip("]") if "[" in name else metric,
                "x": [row["samples"] for row in series[name]],
                "y": [row["value"] for row in series[name]],
                "low": [row["low"] for row in series[name]] if series[name][0]["low"] is not None else None,
                "high": [row["high"] for row in series[name]],
            }
            for name in names
        ]
        signed = any(min(line["y"]) < 0 for line in lines)
        charts.append(line_chart(f"{evaluator}: {metric.replace('_', ' ')}", [], lines, "samples seen", zero=signed))
    return charts


def _training(series: dict[str, list[Row]]) -> list[str]:
    titles = {"train/loss": "Loss", "train/samples_per_second": "Samples per second"}
    return [
        line_chart(
            title,
            [r["samples"] for r in series[name]],
            [{"label": title, "y": [r["value"] for r in series[name]]}],
            "samples seen",
        )
        for name, title in titles.items()
        if series.get(name)
    ]


def _read_json(path: Path) -> Row:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
