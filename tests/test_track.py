"""What is logged, read back from the files."""

from pathlib import Path
from typing import Any

from balance.common.metric import Metric, read_metrics
from models.training.tracker import Tracker
from tests.wandb_file import read_offline

CONFIG: dict[str, Any] = {
    "seed": 3,
    "data": {"name": "demo"},
    "model": {"name": "tiny"},
    "balance": {"method": "dual"},
    "eval": {
        "headline": {"model RB": "rb/mean_parity", "top-1": "zs/top1"},
        "evaluators": {"rb": {"kind": "parity"}, "zs": {"kind": "zeroshot"}, "ab": {"kind": "association"}},
    },
    "track": {"wandb": "offline", "project": "p", "entity": None, "group": None, "job": "unlearn"},
}


def evaluation(rb: float, top1: float) -> list[Metric]:
    return [
        Metric("rb/mean_parity", rb, rb - 0.1, rb + 0.1, 50, "man | woman"),
        Metric("ab/difference[nurse]", 0.2, 0.1, 0.3, 50),
        Metric("zs/top1", top1, top1 - 0.1, top1 + 0.1),
    ]


def test_what_wandb_is_told(tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.json").write_text("{}")
    tracker = Tracker(tmp_path, True, "mine", CONFIG)
    tracker.keep(tmp_path / "plan", "plan")
    for step, (rb, top1) in enumerate([(-0.4, 0.1), (0.1, 0.6), (-0.2, 0.5)]):
        tracker.log(evaluation(rb, top1), step, step, 1000 * step)
    tracker.close()
    found = read_offline(tmp_path)
    assert found["run"] == {"group": "mine", "job_type": "unlearn", "tags": ["demo", "tiny", "balanced"]}
    assert found["config"]["seed"] == 3
    assert found["config"]["balance"] == {"method": "dual"}
    logged = [row for row in found["history"] if "rb/mean_parity" in row]
    assert [row["samples"] for row in logged] == [0, 1000, 2000]
    assert logged[1]["rb/mean_parity"] == 0.1
    assert logged[1]["rb/mean_parity.low"] == 0.0
    assert logged[1]["tables/per_concept/_type"] == "table-file"
    assert logged[1]["tables/per_concept/nrows"] == 1
    assert found["metrics"]["*"] == "samples"
    assert found["summary"]["best/rb/mean_parity"] == 0.1
    assert found["summary"]["best/zs/top1"] == 0.6
    charts = {key.split("_table/")[0] for row in found["history"] for key in row if key.startswith("charts/")}
    assert charts == {"charts/per_concept", "charts/model-RB", "charts/top-1", "charts/frontier"}
    assert found["summary"]["rb/mean_parity"] == -0.2
    assert found["artifacts"]["mine-plan"] == "plan"
    assert [row["value"] for row in read_metrics(tmp_path / "metrics.jsonl") if row["name"] == "zs/top1"] == [
        0.1,
        0.6,
        0.5,
    ]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, False, "mine", CONFIG)
    tracker.log(evaluation(0.3, 0.2), 0, 0, 0)
    tracker.keep(tmp_path, "plan")
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_rows_after_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, True, "mine", {**CONFIG, "track": {**CONFIG["track"], "wandb": "disabled"}})
    for step in range(3):
        tracker.log(evaluation(0.3, 0.2), step, step, step)
    tracker.rewind(1)
    assert {row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")} == {0, 1}
