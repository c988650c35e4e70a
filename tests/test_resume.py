"""Going on with a run under other settings, by another version, or one that was never begun: exact, or one sentence."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

import train
from balance.errors import UserError
from conf.app.cli import all_keys, compose, stored_config
from conf.app.run import not_begun
from models.checkpoint import list_checkpoints, load_checkpoint, note_sum
from models.training.distributed import Processes
from models.training.run_state import ALWAYS, BY_SETTING, RunState
from tests.launching import before_step, measured, run, terminate, tiny_overrides


@pytest.fixture(scope="module")
def done(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs `plain` and `averaged` (with an EMA), each of one epoch."""
    runs = tmp_path_factory.mktemp("done")
    assert run(world, runs, "name=plain", "schedule.epochs=1") == 0
    assert run(world, runs, "name=averaged", "schedule.epochs=1", "model.ema=0.9") == 0
    return runs


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for work in ("prepare_stages", "create_suite", "create_model"):
        monkeypatch.setattr(f"conf.app.parts.{work}", lambda *a, work=work, **k: pytest.fail(f"{work} was called"))


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("name", "more", "sentence"),
    [
        ("plain", ["model.ema=0.9"], r"written without model\.ema; resume without it, too, or .*init_from=.*step-"),
        ("averaged", [], r"written with model\.ema; resume with it, too, or .*model\.init_from="),
    ],
)
def test_an_average_is_neither_begun_nor_ended_in_the_midst(
    world: Path, done: Path, name: str, more: list[str], sentence: str
) -> None:
    before = (done / name / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=sentence):
        run(world, done, f"name={name}", "resume=true", "schedule.epochs=2", *more)
    assert (done / name / "config.yaml").read_bytes() == before


def test_the_checkpoint_holds_what_is_looked_for_before_work_starts(done: Path) -> None:
    plain, averaged = (
        set(load_checkpoint(list_checkpoints(done / name / "checkpoints")[-1])) for name in ("plain", "averaged")
    )
    facts = {"model_config", "lora_scale"}
    assert plain == {*ALWAYS, *facts, "optimizer"}
    assert averaged - plain == {"ema"} <= set(BY_SETTING)


def without(done: Path, runs: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A copy of the run whose newest checkpoint is changed."""
    shutil.copytree(done / "plain", runs / "plain")
    path = list_checkpoints(runs / "plain/checkpoints")[-1]
    state = load_checkpoint(path)
    change(state)
    torch.save(state, path)
    note_sum(path)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("part", [*ALWAYS, "optimizer"])
def test_a_checkpoint_that_lacks_a_part_is_told_before_work_starts(
    world: Path, done: Path, tmp_path: Path, part: str
) -> None:
    without(done, tmp_path, lambda state: state.pop(part))
    with pytest.raises(UserError, match=rf"holds no {part}: another version .* model\.init_from="):
        run(world, tmp_path, "name=plain", "resume=true", "schedule.epochs=2")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("keeper", lambda state: state["keeper"].pop("mode")),
        ("stopper", lambda state: state["stopper"].pop("before")),
        ("meter", lambda state: state["ranks"][0].pop("meter")),
        ("random state", lambda state: state["ranks"][0].pop("rng")),
        ("model", lambda state: state["model"].pop("logit_scale")),
    ],
)
def test_a_part_of_another_form_is_told(
    world: Path, done: Path, tmp_path: Path, part: str, change: Callable[[dict[str, Any]], Any]
) -> None:
    without(done, tmp_path, change)
    with pytest.raises(UserError, match=rf"its {part} does not fit this run .*; resume with .* model\.init_from="):
        run(world, tmp_path, "name=plain", "resume=true", "schedule.epochs=2")


# ---------------------------------------------------------------------------- under other settings


@pytest.fixture(scope="module")
def stopped_run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped within a pass over the data."""
    runs = tmp_path_factory.mktemp("stopped")
    with before_step(3, terminate):
        assert run(world, runs, "name=a") == 128 + signal.SIGTERM
    return runs / "a"


@pytest.mark.parametrize("changed", ["data.workers=2", "data.batch_size=8", "data.shuffle=7", "seed=1"])
def test_resume_refuses_another_order_of_samples(world: Path, tmp_path: Path, changed: str, stopped_run: Path) -> None:
    shutil.copytree(stopped_run, tmp_path / "a")
    with pytest.raises(UserError, match="resume with the same values"):
        run(world, tmp_path, "name=a", "resume=true", changed)


def test_resume_refuses_another_number_of_processes(stopped_run: Path) -> None:
    state = load_checkpoint(list_checkpoints(stopped_run / "checkpoints")[-1])
    state["ranks"] = state["ranks"] * 2
    with pytest.raises(UserError, match="written by 2 processes, and this run has 1"):
        RunState({}, {}, {}, state["plan"], Processes()).load_state_dict(state)


def test_resume_refuses_another_plan_and_leaves_the_configuration(world: Path, straight: Path) -> None:
    before = (straight / "config.yaml").read_text()
    with pytest.raises(UserError, match="another plan"):
        run(world, straight.parent, "name=a", "resume=true", "balance.eps_association=0.2")
    assert (straight / "config.yaml").read_text() == before


def test_a_bare_resume_takes_the_configuration_of_the_run(world: Path, straight: Path) -> None:
    bare = [f"runs={straight.parent}", "name=a", "resume=true"]
    stored = stored_config(bare)
    assert stored is not None
    assert stored == compose(tiny_overrides(world, straight.parent, "name=a", "resume=true"))
    for whole in ("data=wds", "~eval.evaluators", "+eval.sets.mine={path: x}"):  # a whole command
        assert stored_config([*bare, whole]) is None
    assert stored_config(["name=nowhere", "resume=true"]) is None


def test_keys_beside_a_bare_resume_replace_those_of_the_run(straight: Path) -> None:
    bare = [f"runs={straight.parent}", "name=a", "resume=true"]
    stored, found = (
        stored_config([*bare, *more]) for more in ([], ["schedule.epochs=4", "stop.targets={rb/share: 1}"])
    )
    assert stored is not None
    assert found is not None
    assert found.schedule.epochs == 4
    assert found.stop.targets == {"rb/share": 1}
    found.schedule.epochs, found.stop = stored.schedule.epochs, stored.stop
    assert found == stored
    with pytest.raises(UserError, match=r"Unknown key schedule\.epoch; did you mean schedule\.epochs"):
        stored_config([*bare, "schedule.epoch=4"])
    with pytest.raises(UserError, match=r"schedule\.epochs: .*'many'"):
        stored_config([*bare, "schedule.epochs=many"])


# ---------------------------------------------------------------------------- config.yaml of another version


def rewrite(done: Path, runs: Path, change: Callable[[dict[str, Any]], Any]) -> list[str]:
    """A copy of the run whose configuration is changed; the bare command that goes on with it."""
    (runs / "plain").mkdir(parents=True)
    config = yaml.safe_load((done / "plain/config.yaml").read_text())
    change(config)
    (runs / "plain/config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return [f"runs={runs}", "name=plain", "resume=true"]


def remove(config: dict[str, Any], key: str) -> None:
    *groups, last = key.split(".")
    for group in groups:
        config = config[group]
    del config[last]


def test_a_missing_key_takes_a_default_that_changes_nothing_or_is_told(done: Path, tmp_path: Path) -> None:
    whole = stored_config(rewrite(done, tmp_path / "whole", lambda config: None))
    assert whole is not None
    typed = {"data", "model", "optim", "schedule", "eval", "track", "checkpoint", "stage", "stop", "dry"}
    told: dict[str, str] = {}
    taken = set()
    for number, key in enumerate(sorted(all_keys(OmegaConf.load(done / "plain/config.yaml")))):
        if key.split(".")[0] not in typed or key.count(".") != 1:
            continue
        bare = rewrite(done, tmp_path / str(number), lambda config, key=key: remove(config, key))
        try:
            assert stored_config(bare) is not None
            taken.add(key)
        except UserError as error:
            told[key] = str(error)
    assert all(f"has no {key}, and" in said and "model.init_from=" in said for key, said in told.items())
    assert {"model.ema", "model.freeze", "stop.targets", "track.job", "optim.layer_decay", "checkpoint.best"} <= taken
    assert {"optim.lr", "data.scale", "schedule.warmup", "model.name", "data.batch_size", "eval.bootstrap"} <= set(told)


def test_a_run_of_an_earlier_version_goes_on_as_it_would_have(world: Path, done: Path, tmp_path: Path) -> None:
    wanted = ["name=plain", "resume=true", "schedule.epochs=2"]
    shutil.copytree(done / "plain", tmp_path / "now/plain")
    assert run(world, tmp_path / "now", *wanted) == 0
    shutil.copytree(done / "plain", tmp_path / "then/plain")
    path = tmp_path / "then/plain/config.yaml"
    config = yaml.safe_load(path.read_text())
    for key in ("model.ema", "model.lora", "model.freeze", "stop", "dry", "stages", "fsdp", "optim.layer_decay"):
        remove(config, key)
    config["schedule"]["epochs"] = 2
    config["model"]["forgotten"] = None  # a switch that is no more, and was off
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    bare = stored_config([f"runs={tmp_path / 'then'}", "name=plain", "resume=true"])
    assert bare is not None
    assert train.main(bare) == 0
    assert measured(tmp_path / "then/plain") == measured(tmp_path / "now/plain")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda config: config["model"].update(colour="red"), r"has the key model\.colour, which this version"),
        (lambda config: config.clear(), r"has no seed, and"),
        (lambda config: config.update(optim=None), r"has no optim\.name"),
    ],
)
def test_a_key_that_matters_and_is_not_known_is_told(
    done: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        stored_config(rewrite(done, tmp_path, change))


@pytest.mark.parametrize("content", ["", "a: [", "- 1"])
def test_a_damaged_configuration_is_told(done: Path, tmp_path: Path, content: str) -> None:
    bare = rewrite(done, tmp_path, lambda config: None)
    (tmp_path / "plain/config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml (is damaged|is not a run's configuration|has no)"):
        stored_config(bare)


def test_a_run_goes_on_under_the_name_of_its_folder(done: Path, tmp_path: Path) -> None:
    rewrite(done, tmp_path, lambda config: None)
    (tmp_path / "plain").rename(tmp_path / "other")
    found = stored_config([f"runs={tmp_path}", "name=other", "resume=true"])
    assert found is not None
    assert found.name == "other"


# ---------------------------------------------------------------------------- killed before config.yaml


@pytest.mark.parametrize("more", [[], ["resume=true"]])
@pytest.mark.parametrize("leftover", [None, "config.yaml.part", "slurm.log"])
def test_a_run_that_was_not_begun_starts(
    world: Path, done: Path, tmp_path: Path, more: list[str], leftover: str | None
) -> None:
    (tmp_path / "plain").mkdir()
    if leftover:
        (tmp_path / "plain" / leftover).write_text("name: x")
    assert run(world, tmp_path, "name=plain", "schedule.epochs=1", *more) == 0
    assert measured(tmp_path / "plain") == measured(done / "plain")
    assert stored_config([f"runs={tmp_path}", "name=plain", "resume=true"]) is not None


def test_what_a_run_has_left_is_no_empty_folder(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "plain", tmp_path / "plain")
    (tmp_path / "plain/config.yaml").unlink()
    assert not not_begun(tmp_path / "plain")
    assert not not_begun(done / "attributes")  # of all runs, not one of them
    assert not not_begun(tmp_path / "nothing")


def test_a_bare_resume_does_not_put_defaults_in_the_place_of_what_was_asked(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(UserError, match="give the whole command"):
        stored_config([f"runs={tmp_path}", "name=plain", "resume=true"])


def test_the_configuration_is_complete_or_absent(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: Any) -> None:
        Path(arguments[1]).write_text("name: pl")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("conf.app.run.OmegaConf.save", killed)
        patch.setattr("conf.app.run_folder.RunFolder.give_back", lambda folder: None)  # a killed one can't
        with pytest.raises(KeyboardInterrupt):
            run(world, tmp_path, "name=plain")
    assert not_begun(tmp_path / "plain")
    assert not (tmp_path / "plain/config.yaml").exists()
