"""Every experiment runs on tiny data; unlearning stops for the right reason; a sweep survives a job that fails."""

import json
from pathlib import Path

import pytest

import train
from balance.common.metric import Metric
from balance.errors import UserError
from conf.app.cli import compose, groups
from models.checkpoint import best_checkpoint, list_checkpoints
from models.start import FROM
from models.training.stopping import FELL, REACHED, Stopper, write_outcome
from tests.commands import start
from tests.launching import data_overrides, measured, model_overrides, tiny_overrides

UNLEARN = ["experiment=unlearn", "balance.min_concept_samples=5", "schedule.epoch_samples=32", "schedule.epochs=3"]


@pytest.fixture(scope="module")
def biased(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the data as it is, to unlearn from."""
    runs = tmp_path_factory.mktemp("biased")
    wanted = tiny_overrides(world, runs, "experiment=pretrain_original", "name=a", "schedule.epochs=1")
    assert train.main(compose([w for w in wanted if not w.startswith("balance.min")])) == 0
    return runs / "a"


def unlearn(world: Path, biased: Path, runs: Path, *more: str) -> int:
    return train.main(compose([*data_overrides(world, runs), f"model.init_from={biased}", *UNLEARN, *more]))


def test_the_experiments_do_what_their_names_say(root: Path) -> None:
    given = ["data.train=shards", "data.eval=shards", "model.init_from=runs/a"]
    made = {name: compose([f"experiment={name}", *given]) for name in groups()["experiment"]}
    assert made["pretrain_balanced"].balance["method"] == "dual"
    assert made["pretrain_original"].balance["method"] == "none"
    assert made["staged"].stage.share is not None
    assert made["unlearn"].stop.targets
    assert made["unlearn"].model.name == FROM
    docs = "".join(path.read_text() for path in (root / "docs").rglob("*.md"))
    assert [name for name in made if f"experiment={name}" not in docs] == []


@pytest.mark.parametrize(("experiment", "plan", "stages"), [("pretrain_balanced", True, 0), ("staged", True, 2)])
def test_pretraining_experiments_run(world: Path, tmp_path: Path, experiment: str, plan: bool, stages: int) -> None:
    wanted = tiny_overrides(world, tmp_path, f"experiment={experiment}", "schedule.epochs=1")
    assert train.main(compose([*wanted, *(["stage.share=0.5"] if stages else [])])) == 0
    (folder,) = [path for path in tmp_path.iterdir() if (path / "metrics.jsonl").exists()]
    assert (folder / "plan/plan.json").exists() == plan
    assert len([row for row in measured(folder) if row["name"] == "train/stage"]) == stages


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """These models have learned next to nothing; here they count as better than chance."""
    monkeypatch.setattr("models.training.stopping.at_chance", lambda rows: False)


@pytest.mark.usefixtures("able")
def test_unlearning_stops_when_the_targets_are_reached(world: Path, biased: Path, tmp_path: Path) -> None:
    assert unlearn(world, biased, tmp_path, "name=u", "stop.targets={rb/mean_parity: 2}", "stop.quality={}") == 0
    outcome = json.loads((tmp_path / "u/outcome.json").read_text())
    assert (outcome["outcome"], outcome["samples"]) == (REACHED, 32)  # any model meets this one
    assert outcome["supports"]["rb/mean_parity"]["target_is"] == "met"
    assert "By its 95 % interval rb/mean_parity" in outcome["sentence"]
    before = [row["value"] for row in measured(biased) if row["name"] == "rb/mean_parity"][-1]
    assert outcome["before"]["rb/mean_parity"] == pytest.approx(before)  # that of the model started from


@pytest.mark.usefixtures("able")
def test_unlearning_ends_without_reaching_and_keeps_the_best(world: Path, biased: Path, tmp_path: Path) -> None:
    targets = ["stop.targets={rb/mean_parity: 1.0e-9}", "stop.quality={job/top1: 2}"]
    assert unlearn(world, biased, tmp_path, "name=u", *targets) == 0
    outcome = json.loads((tmp_path / "u/outcome.json").read_text())
    assert (outcome["outcome"], outcome["samples"]) == ("not reached", 96)
    scores = {r["step"]: r["value"] for r in measured(tmp_path / "u") if r["name"] == "stop/score" and r["step"]}
    best = best_checkpoint(tmp_path / "u/checkpoints")
    assert best is not None
    assert int(best.stem.removeprefix("step-")) == min(scores, key=lambda step: scores[step])


@pytest.mark.usefixtures("able")
def test_unlearning_stops_when_quality_falls(
    world: Path, biased: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, values = Stopper.judge, iter([0.9, 0.88, 0.7, 0.9])

    def judge(self: Stopper, metrics: list[Metric]) -> list[Metric]:
        fixed = [m for m in metrics if m.name != "job/top1"]
        return original(self, [*fixed, Metric("job/top1", next(values))])

    monkeypatch.setattr(Stopper, "judge", judge)
    targets = ["stop.targets={rb/mean_parity: 1.0e-9}", "stop.quality={job/top1: 0.1}"]
    assert unlearn(world, biased, tmp_path, "name=u", *targets) == 0
    outcome = json.loads((tmp_path / "u/outcome.json").read_text())
    assert (outcome["outcome"], outcome["samples"]) == (FELL, 64)
    best = best_checkpoint(tmp_path / "u/checkpoints")
    assert best is not None
    assert best.name == "step-00000002.pt"
    # A run that has ended stays so.
    assert unlearn(world, biased, tmp_path, "name=u", "resume=true", *targets) == 0
    assert list_checkpoints(tmp_path / "u/checkpoints")[-1].name == "step-00000004.pt"


def bias(value: float, low: float, high: float, quality: float) -> list[Metric]:
    return [Metric("rb/mean_parity", value, low, high), Metric("job/top1", quality)]


def test_verdicts() -> None:
    stopper = Stopper({"rb/mean_parity": 0.1}, {"job/top1": 0.05}, certain=False, in_a_row=1)
    verdict = {m.name: m.value for m in stopper.judge(bias(-0.3, -0.4, -0.2, 0.9))}
    assert verdict == pytest.approx({"stop/quality": 0, "stop/bias": 3, "stop/score": 3})
    assert stopper.outcome is None
    stopper.judge(bias(-0.09, -0.2, 0.01, 0.86))
    assert stopper.outcome == REACHED
    certain = Stopper({"rb/mean_parity": 0.1}, {}, certain=True, in_a_row=1)
    certain.judge(bias(-0.09, -0.2, 0.01, 0.9))
    assert certain.outcome is None
    certain.judge(bias(-0.05, -0.1, 0.01, 0.1))
    assert certain.outcome == REACHED
    fallen = Stopper({"rb/mean_parity": 0.1}, {"job/top1": 0.05})
    fallen.judge(bias(0.3, 0.2, 0.4, 0.9))
    verdict = {m.name: m.value for m in fallen.judge(bias(0.01, 0, 0.02, 0.8))}
    assert fallen.outcome == FELL  # low bias does not buy lost quality
    assert verdict["stop/score"] > 1000
    again = Stopper({"rb/mean_parity": 0.1}, {"job/top1": 0.05})
    again.load_state_dict(fallen.state_dict())
    assert (again.outcome, again.before) == (FELL, fallen.before)


def test_a_wide_interval_must_lie_within_its_target_twice() -> None:
    stopper = Stopper({"rb/mean_parity": 0.1}, {})
    for low, high in ((-0.14, 0.01), (-0.09, 0.08), (-0.11, 0.08), (-0.09, 0.08)):
        stopper.judge(bias(-0.01, low, high, 0.9))
        assert stopper.outcome is None
    again = Stopper({"rb/mean_parity": 0.1}, {})
    again.load_state_dict(stopper.state_dict())
    again.judge(bias(-0.01, -0.08, 0.02, 0.9))  # no wider than the target: its value is enough
    assert again.outcome == REACHED, "two in a row, of which one was before the checkpoint"


def test_the_end_says_what_the_intervals_support() -> None:
    """An unlearning that can't be decided: a start that held 0, and an interval wider than the target."""
    stopper = Stopper({"rb/mean_parity": 0.05}, {})
    stopper.judge([Metric("rb/mean_parity", -0.13, -0.27, 0.01, 95)])
    end = [Metric("rb/mean_parity", 0.01, -0.15, 0.18, 95)]
    stopper.judge(end)
    assert stopper.outcome is None
    told = stopper.supports(end)["rb/mean_parity"]
    assert (told["target_is"], told["changed"], told["images"]) == ("cannot be told", False, 4139)
    assert stopper.sentence(64, end) == (
        "Targets not reached within 64 samples (rb/mean_parity -0.130 -> 0.010). By its 95 % interval rb/mean_parity "
        "0.010 [-0.150, 0.180] can't be told to be within 0.05 on 95 images; about 4,139 would decide, and no change "
        "from the start is shown."
    )
    beyond = stopper.supports([Metric("rb/mean_parity", 0.3, 0.2, 0.4, 95)])["rb/mean_parity"]
    assert (beyond["target_is"], beyond["changed"]) == ("not met", True)


def test_a_model_at_chance_reaches_nothing(tmp_path: Path) -> None:
    stopper = Stopper({"rb/mean_parity": 0.1}, {}, in_a_row=1)
    guessing = Metric("job/top1", 0.11, 0.09, 0.13, 500, chance=0.1)
    metrics = [Metric("rb/mean_parity", 0.0, -0.01, 0.01, 500), guessing]
    stopper.judge(metrics)
    assert stopper.outcome is None
    write_outcome(tmp_path, stopper, 32, metrics)
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["outcome"] == "at chance"
    assert outcome["supports"]["rb/mean_parity"]["target_is"] == "cannot be told"
    assert outcome["sentence"].startswith("Not judged after 32 samples: quality is at chance")
    stopper.judge([metrics[0], Metric("job/top1", 0.5, 0.45, 0.55, 500, chance=0.1)])
    assert stopper.outcome == REACHED


def test_quality_that_is_not_a_number_has_fallen() -> None:
    stopper = Stopper({}, {"job/top1": 0.05})
    stopper.judge(bias(0, 0, 0, 0.9))
    stopper.judge(bias(0, 0, 0, float("nan")))
    assert stopper.outcome == FELL


def test_a_target_that_is_not_measured_is_told() -> None:
    with pytest.raises(UserError, match="not measure"):
        Stopper({"rb/mean": 0.1}, {}).judge(bias(0, 0, 0, 0.9))


@pytest.mark.slow
def test_a_sweep_names_its_jobs_survives_one_that_fails_and_goes_on(world: Path, tmp_path: Path) -> None:
    given = [
        *data_overrides(world, tmp_path),
        *model_overrides(),
        "balance.min_concept_samples=5",
        "schedule.epochs=1",
        "stage.share=1.0",
        "balance.eps_association=0.1",
    ]
    command = ["train.py", "-m", "experiment=sweep", *given, "balance.keep=0.3,7.0"]
    done = start(*command)
    assert done.returncode == 2
    assert "sweep-keep-7.0" in done.stderr.splitlines()[-1]
    folder = tmp_path / "sweep-keep-0.3_eps_association-0.1_share-1.0"
    assert folder.is_dir(), [path.name for path in tmp_path.iterdir()]
    command[-1] = "balance.keep=0.3,0.5"
    done = start(*command, "resume=true")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "sweep-keep-0.5_eps_association-0.1_share-1.0/report.html").exists()
