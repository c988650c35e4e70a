"""Runs in W&B as people have them: sent while training, resumed, swept, and with a server that fails in every way."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

import train
from balance.common.metric import Metric, read_metrics
from balance.errors import UserError
from conf.app.cli import launch
from models.training import wandb_mirror
from models.training.tracker import Tracker
from scripts import wandb_workspace
from tests.launching import tiny_overrides
from tests.made_run import make_run
from tests.test_track import CONFIG, evaluation
from tests.wandb_file import read_offline
from tests.wandb_server import ENTITY, KEY, StoredRun, WandbServer

ONLINE: dict[str, Any] = {**CONFIG, "track": {**CONFIG["track"], "wandb": "online"}}
WANDB = [sys.executable, "-m", "wandb"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    wandb.teardown()  # it keeps the settings of its first use
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no .netrc, no settings of the user
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))  # or the client's logs come into the checkout
    monkeypatch.setattr(wandb_mirror, "SECONDS_TO_ANSWER", 0.5)
    with WandbServer() as found:
        for name, value in found.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WANDB_MODE", "online")
        yield found
        found.released.set()
        wandb.teardown()


def start(folder: Path) -> Tracker:
    folder.mkdir(exist_ok=True)
    return Tracker(folder, True, "mine", ONLINE)


def samples(run: StoredRun, name: str = "rb/mean_parity") -> list[int]:
    return [row["samples"] for row in run.rows if name in row]


@pytest.mark.slow
def test_a_run_arrives_with_its_rows_config_and_artifacts_in_order(server: WandbServer, tmp_path: Path) -> None:
    tracker = start(tmp_path / "mine")
    (tmp_path / "mine/plan").mkdir()
    (tmp_path / "mine/plan/plan.json").write_text("{}")
    tracker.keep(tmp_path / "mine/plan", "plan")
    (tmp_path / "mine/plan/plan.json").write_text("changed later")
    for step, (rb, top1) in enumerate([(-0.4, 0.1), (0.1, 0.6), (-0.2, 0.5)]):
        tracker.log(evaluation(rb, top1), step, step, 1000 * step)
    tracker.close()
    (run,) = server.runs.values()
    assert (run.project, run.facts["groupName"], run.facts["displayName"]) == ("p", "mine", "mine")
    assert (run.facts["jobType"], run.facts["tags"]) == ("unlearn", ["demo", "tiny", "balanced"])
    assert {key: run.config[key] for key in CONFIG} == ONLINE
    assert samples(run) == [0, 1000, 2000]
    assert [row["zs/top1"] for row in run.rows if "zs/top1" in row] == [0.1, 0.6, 0.5]
    assert [row["_step"] for row in run.rows] == list(range(len(run.rows)))
    assert run.summary["best/rb/mean_parity"] == 0.1
    assert run.ended == 0
    plan, *tables = [one for one in server.artifacts if one.state == "COMMITTED"]
    assert (plan.name, plan.type, plan.files["plan.json"]) == ("mine-plan", "plan", b"{}")
    table = next(one for one in tables if "per_concept" in one.name)
    assert json.loads(table.files["tables/per_concept.table.json"])["data"] == [
        ["ab/difference", "nurse", 0.2, 0.1, 0.3, 50, None]
    ]
    assert server.unknown == []


def test_a_resumed_run_goes_on_as_the_next_attempt_of_its_group(server: WandbServer, tmp_path: Path) -> None:
    first = start(tmp_path / "mine")
    for step in range(3):
        first.log([Metric("rb/mean_parity", 0.1 * step)], step, step, 1000 * step)
    state = first.state_dict()
    with pytest.raises(KeyboardInterrupt), first:
        raise KeyboardInterrupt
    second = start(tmp_path / "mine")
    second.load_state_dict(state)
    second.rewind(1)  # the checkpoint was written after step 1
    for step in (2, 3):
        second.log([Metric("rb/mean_parity", -0.1 * step)], step, step, 1000 * step)
    second.close()
    one, two = server.runs.values()
    assert (samples(one), one.ended) == ([0, 1000, 2000], 1)
    assert (samples(two), two.ended) == ([2000, 3000], 0)
    assert one.facts["groupName"] == two.facts["groupName"] == "mine"
    assert second.state_dict() == {"attempts": [one.name, two.name]}
    rows = read_metrics(tmp_path / "mine/metrics.jsonl")
    assert [(row["step"], round(row["value"], 3)) for row in rows] == [(0, 0.0), (1, 0.1), (2, -0.2), (3, -0.3)]
    curve = next(one for one in server.artifacts if "model-RB" in one.name and one.run == two.name)
    (content,) = [data for name, data in curve.files.items() if name.endswith(".table.json")]
    assert [row[0] for row in json.loads(content)["data"]] == [0, 1000, 2000, 3000], "the whole course"


# ------------------------------------------------------------------ a server that fails


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("refused", "does not answer ([Errno 111] Connection refused)"),
        ("silent", "does not answer (timed out)"),
        ("500", "answers with error 500"),
        ("no key", "needs an API key (wandb login stores one)"),
        ("wrong key", "does not accept the API key"),
        ("bad address", "has no valid address"),
        ("unknown host", "does not answer ("),
        ("no W&B", "does not answer ("),
        ("none", ""),
    ],
)
def test_what_keeps_a_run_from_being_sent_is_told(
    fault: str, sentence: str, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.status = {"silent": None, "500": 500}.get(fault, 200)
    addresses = {
        "refused": f"http://127.0.0.1:{free_port()}",
        "bad address": "api.wandb.ai",
        "unknown host": "http://host.invalid",
        "no W&B": f"{server.url}/upload",
    }
    if fault in addresses:
        monkeypatch.setenv("WANDB_BASE_URL", addresses[fault])
    if fault == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    if fault == "wrong key":
        monkeypatch.setenv("WANDB_API_KEY", "b" * 40)
    found = wandb_mirror.server_trouble(0.5)
    assert found.startswith(sentence)
    assert bool(found) == bool(sentence)


def test_a_stored_key_is_found(server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.netrc").write_text(f"machine 127.0.0.1\n  login user\n  password {KEY}\n")
    (tmp_path / "home/.netrc").chmod(0o600)
    assert wandb_mirror.server_trouble(0.5) == ""


def sync(note: str) -> None:
    """Do what a note says."""
    found = re.search(r"Send it later: wandb (sync \S+)", note)
    assert found
    folder, command = found[1].split()[1], [*WANDB, *found[1].split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_whose_server_is_silent_is_kept_offline_and_sent_later(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.status = None
    tracker = start(tmp_path / "mine")
    tracker.log(evaluation(0.3, 0.2), 0, 0, 1000)
    tracker.close()
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert len(notes) == 1
    assert f"The W&B server {server.url} does not answer (timed out); this run is kept offline." in notes[0]
    assert server.runs == {}
    assert read_offline(tmp_path / "mine")["history"]
    server.status = 200
    sync(notes[0])
    (run,) = server.runs.values()
    assert samples(run) == [1000]


def test_a_start_that_fails_is_repeated_offline(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_mirror, "SECONDS_TO_START", 1.0)
    monkeypatch.setattr(server, "_op_UpsertBucket", lambda given: server.released.wait())
    tracker = start(tmp_path / "mine")
    server.released.set()
    tracker.log(evaluation(0.3, 0.2), 0, 0, 0)
    tracker.close()
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert len(notes) == 1
    assert "did not start the run" in notes[0]
    assert read_offline(tmp_path / "mine")["history"]


def test_a_server_that_falls_silent_costs_no_step(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_mirror, "SECONDS_TO_FINISH", 2.0)
    monkeypatch.setattr(wandb_mirror, "SECONDS_TO_START", 2.0)
    tracker = start(tmp_path / "mine")
    server.status = None
    for step in range(3):
        tracker.log(evaluation(0.3, 0.2), step, step, 1000 * step)  # would wait for the server, which never answers
    assert not server.released.is_set()
    tracker.close()
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert len(notes) == 1
    kept = [row for row in read_metrics(tmp_path / "mine/metrics.jsonl") if row["name"] == "zs/top1"]
    assert [row["samples"] for row in kept] == [0, 1000, 2000]


def test_rows_go_without_tables_once_one_could_not_be_sent(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fail(*_: object) -> None:
        asked.append(1)
        raise wandb.errors.AuthenticationError("Failed to verify credentials\nand more")

    tracker = start(tmp_path / "mine")
    monkeypatch.setattr(tracker._mirror.run, "log_artifact", fail)  # type: ignore[union-attr]
    monkeypatch.setattr(tracker._mirror, "_tables", fail)
    for step in range(3):
        tracker.log(evaluation(0.3, 0.2), step, step, 1000 * step)
    tracker.keep(tmp_path / "mine/metrics.jsonl", "rows")
    tracker.close()
    assert len(asked) == 2, "the first row's tables, and the artifact"
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert "failed (Failed to verify credentials); the run goes on, kept in its folder. Send it later: wandb" in note
    (run,) = server.runs.values()
    assert samples(run) == [0, 1000, 2000]
    assert run.ended == 0


# ------------------------------------------------------------------ many runs


@pytest.mark.slow
def test_the_jobs_of_a_multirun_are_runs_of_one_group(
    server: WandbServer, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [*tiny_overrides(world, tmp_path, "schedule.epochs=1"), "track.project=p"]
    wanted = ["track=wandb" if word == "track=none" else word for word in wanted]
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", *wanted, "seed=0,1"])
    launch(train.main)
    one, two = server.runs.values()
    assert (one.facts["displayName"], two.facts["displayName"]) == ("sweep-seed-0", "sweep-seed-1")
    assert one.facts["groupName"] == two.facts["groupName"] == "sweep"
    for run, seed in ((one, 0), (two, 1)):
        assert run.config["seed"] == seed
        assert run.ended == 0
        folder = tmp_path / run.facts["displayName"]
        rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["name"] == "rb/mean_parity"]
        assert [row["rb/mean_parity"] for row in run.rows if "rb/mean_parity" in row] == [r["value"] for r in rows]
        assert [one.name for one in server.artifacts if one.run == run.name and one.type == "plan"]


def test_the_runs_of_a_sweep_are_runs_of_one_group(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")  # as the agent starts its runs
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name in ("r1", "r2"):
        monkeypatch.setenv("WANDB_RUN_ID", name)
        wandb.teardown()
        config = {**ONLINE, "track": {**ONLINE["track"], "group": "tolerance"}}
        tracker = Tracker(tmp_path / name, True, f"mine-{name}", config)
        tracker.log([Metric("rb/mean_parity", 0.5)], 0, 0, 0)
        tracker.close()
    assert {name: (run.facts["groupName"], run.facts["sweep"]) for name, run in server.runs.items()} == {
        "r1": ("tolerance", "s1"),
        "r2": ("tolerance", "s1"),
    }
    assert [samples(run) for run in server.runs.values()] == [[0], [0]]


def test_a_workspace_is_saved(server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, "one", track={"project": "p"})
    assert wandb_workspace.main([f"run={run}", f"entity={ENTITY}", "name=mine"]) == 0
    assert f"Workspace: {server.url}/{ENTITY}/p?nw=" in capsys.readouterr().out
    (view,) = server.views
    assert view["displayName"] == "mine"
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    assert [one["name"] for one in sections][:2] == ["Summary", "Bias against quality"]
    server.status = 500
    with pytest.raises(UserError, match=r"answers with error 500; a workspace is saved there\."):
        wandb_workspace.main([f"run={run}", f"entity={ENTITY}"])
