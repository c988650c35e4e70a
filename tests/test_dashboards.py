"""W&B workspaces and sweeps fit what runs log and what the configuration has."""

from pathlib import Path

import pytest
import yaml

from balance.errors import UserError
from conf.app.cli import compose
from eval.report.rundata import load_run
from scripts.wandb_workspace import build, layout, main
from tests.made_run import make_run


def test_a_workspace_shows_the_summary_first(tmp_path: Path) -> None:
    import wandb_workspaces.workspaces as ws

    sections = layout(load_run(make_run(tmp_path, "one")))
    assert [title for title, _ in sections] == ["Summary", "Bias against quality", "rb", "ab", "zs", "Training"]
    assert sections[0][1][0]["y"] == ["rb/mean_parity", "rb/mean_parity.low", "rb/mean_parity.high"]
    model = ws.Workspace(entity="e", project="p", name="n", sections=build(sections))._to_model()
    text = model.model_dump_json()
    assert "rb/mean_parity" in text
    assert "Run History Line Plot" in text
    assert "Scatter Plot" in text


def test_dry_run_prints_and_sends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, "one", track={"project": "p"})
    assert main([f"run={run}", "dry_run=true"]) == 0
    assert "Summary: model RB, AB, top-1" in capsys.readouterr().out
    with pytest.raises(UserError, match="entity="):
        main([f"run={run}"])


@pytest.mark.parametrize("path", sorted(Path("scripts/sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_parameter_of_a_sweep_is_a_key(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    overrides = []
    for key, values in sweep["parameters"].items():
        value = values.get("value", (values.get("values") or [values.get("min")])[0])
        overrides.append(f"{key}={value}")
    assert (Path(sweep["program"])).is_file()
    compose([*overrides, "track=wandb", "track.group=x"])  # raises on an unknown key
