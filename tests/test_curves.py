"""The pictures of metrics over samples."""

import json
from pathlib import Path

import pytest
import yaml

from balance.errors import UserError
from scripts import curves, unlearning_curve


def run_folder(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    rows = [
        {
            "step": s,
            "epoch": s,
            "samples": 100 * s,
            "name": "rb/mean_parity",
            "value": 0.5 / (s + 1),
            "low": 0,
            "high": 1,
        }
        for s in range(3)
    ]
    (folder / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / name / "config.yaml").write_text(yaml.safe_dump({"name": name, "eval": {}}))
    return folder / name


def test_a_line_per_run(tmp_path: Path) -> None:
    runs = [str(run_folder(tmp_path, name)) for name in ("one", "two")]
    out = tmp_path / "x.svg"
    assert curves.main([*runs, "metrics=[rb/mean_parity]", "labels=[first run, second run]", f"out={out}"]) == 0
    picture = out.read_text()
    assert "first run" in picture
    assert "rb: mean parity" in picture
    with pytest.raises(UserError, match="has not measured ab"):
        curves.main([*runs, "metrics=[ab]", f"out={out}"])
    with pytest.raises(UserError, match="1 labels for 2 runs"):
        curves.main([*runs, "metrics=[rb/mean_parity]", "labels=[a]"])


def test_runs_beyond_the_last_colour_are_drawn_too(tmp_path: Path) -> None:
    runs = [str(run_folder(tmp_path, f"run{number}")) for number in range(9)]
    curves.main([*runs, "metrics=[rb/mean_parity]", f"out={tmp_path / 'x.svg'}"])
    assert "run8" in (tmp_path / "x.svg").read_text()


def test_an_unlearning_run_with_its_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = run_folder(tmp_path, "one"), tmp_path / "pictures/x.svg"
    with pytest.raises(UserError, match=r"There is no .*outcome\.json"):
        unlearning_curve.main([str(run), "--out", str(out)])
    outcome = {"targets": {"rb/mean_parity": 0.1}, "quality": {}, "sentence": "Targets reached."}
    (run / "outcome.json").write_text(json.dumps(outcome))
    assert unlearning_curve.main([str(run), "--out", str(out)]) == 0
    assert capsys.readouterr().out == "Targets reached.\n"
    assert "dotted" in out.read_text() or out.stat().st_size > 5000
