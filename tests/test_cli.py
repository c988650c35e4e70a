"""The command line: brace patterns as typed, unknown names answered with the nearest, types checked."""

import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from balance.errors import UserError
from conf.app.cli import check_flags, compose, groups, launch, quote_override
from conf.app.run import check_run


def value_of(override: str) -> object:
    return OverridesParser.create().parse_override(quote_override(override)).value()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("data.train=a/train-{00000..00005}.tar", "a/train-{00000..00005}.tar"),
        ("data.train=a/{x,y}.tar", "a/{x,y}.tar"),
        ("data.train={00..01}.tar", "{00..01}.tar"),
        ("data.train=[a-{0..1}.tar,b.tar]", ["a-{0..1}.tar", "b.tar"]),
        ("data.train=/data/x=1/*.tar", "/data/x=1/*.tar"),
        ("data.train='it is'", "it is"),
        ("data.train=it's {0..1}.tar", "it's {0..1}.tar"),
        ("balance.target={woman: 0.4}", {"woman": 0.4}),
        ("optim.lr=1e-3", 1e-3),
        ("name=mine", "mine"),
    ],
)
def test_values_arrive_as_typed(typed: str, meant: object) -> None:
    assert value_of(typed) == meant


@given(st.text("abc{}.,=' *[]-/0", min_size=1, max_size=12))
def test_quoting_never_makes_a_good_override_bad(text: str) -> None:
    quoted = quote_override(f"data.train={text}")
    assert quote_override(quoted) == quoted


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--dry-run", "--dry-run: keys are written without dashes: dry_run=true."),
        ("--seed", "--seed: keys are written without dashes: seed=..."),
        ("--seed=3", "--seed=3: keys are written without dashes: seed=3."),
        ("--epochs=3", "did you mean schedule.epochs"),
        ("--data", "--data: keys are written without dashes: data=..."),
    ],
)
def test_keys_with_dashes_are_answered_with_how_to_write_them(
    argument: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", argument])
    with pytest.raises(SystemExit) as end:
        launch(lambda config: pytest.fail("the run began"))
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err
    check_flags(["--multirun", "-m", "--cfg", "--multi", "--config-dir=x"])


def test_names_of_choices_are_not_suggested() -> None:
    with pytest.raises(UserError, match=r"Unknown key schedul\.name; did you mean schedule or ") as told:
        compose(["schedul.name=x"])
    assert "schedule.name" not in str(told.value)


def test_shards_of_ones_own_are_not_read_by_the_settings_of_the_demo() -> None:
    with pytest.raises(UserError, match=r"data\.train=mine with the demo's settings: .* add data=wds, and"):
        check_run(compose(["data.train=mine"]))
    with pytest.raises(UserError, match="with the demo's settings"):
        check_run(compose(["data.train=demo-data-of-mine/train"]))
    check_run(compose(["data.root=elsewhere"]))
    check_run(compose([f"data.train={Path('demo-data/train').absolute()}"]))
    check_run(compose(["data=wds", "data.train=mine"]))


def test_a_brace_pattern_reaches_the_configuration() -> None:
    config = compose(["data=wds", "data.train=x/train-{00000..00005}.tar"])
    assert config.data.train == "x/train-{00000..00005}.tar"
    assert config.eval.name == "wds"
    assert config.schedule.name == "wds"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["schedule.epoch=2"], r"Unknown key schedule.epoch; did you mean schedule.epochs"),
        (["epochs=2"], r"Unknown key epochs; did you mean schedule.epochs"),
        (["model=tinny"], r"no such choice; did you mean tiny"),
        (["model"], r"is no override; write key=value.* did you mean model"),
        (["data=wds"], r"data.train must be given"),
        (["optim.lr=fast"], r"optim.lr: .*could not be converted"),
        (["schedule.epochs=1.5"], r"schedule.epochs"),
        (["+model.colour=red"], r"Unknown key model.colour"),
        (["balance.kep=0.5"], r"Unknown key balance.kep; did you mean balance.keep"),
    ],
)
def test_mistakes_are_told(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compose(overrides)


@pytest.mark.parametrize("group", sorted(set(groups()) - {"experiment"}))
@pytest.mark.parametrize("form", ["{}=null", "{}=", "~{}"])
def test_a_group_that_a_run_needs_can_not_be_left_out(group: str, form: str) -> None:
    with pytest.raises(UserError, match=f"{group} has no empty choice; it has {groups()[group][0]}"):
        compose([form.format(group)])


@pytest.mark.parametrize("override", ["experiment=null", "experiment=", "+experiment=null", "~experiment"])
def test_no_experiment_may_be_said(override: str) -> None:
    assert compose([override]) == compose([])


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["experiment=null", "dry_run=maybe"], "dry_run: "),
        (["data=null"], "data has no empty choice"),
        (["-m", "experiment=sweep,nothing"], "the group experiment has no such choice"),
        (["-m", "experiment=null,sweep"], "experiment has no empty choice"),
        (["data=wds", "data.train=S/s-0.tar", "data.train=S/s-1.tar"], "'data.train=S/s-{0..1}.tar'"),
        (["name=a", "resume=true", "seed=1", "seed=2"], "seed is given 2 times (1, 2); give it once."),
    ],
)
def test_the_command_line_tells_them_in_one_sentence(
    more: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *more])
    with pytest.raises(SystemExit) as end:
        launch(lambda config: pytest.fail("the run started"))
    assert end.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert "\n" not in said
    assert sentence in said


def test_every_choice_of_every_group_composes() -> None:
    for group, choices in groups().items():
        for choice in choices:
            compose([f"{group}={choice}", "data.train=x"])


def test_a_mapping_replaces_what_was_there() -> None:
    config = compose(
        [
            "balance.target={age: 0.3}",
            "eval.headline={}",
            "data.train=x",
            "model=open_clip",
            "model.config={embed_dim: 8}",
        ]
    )
    assert config.balance["target"] == {"age": 0.3}
    assert config.eval.headline == {}
    assert config.model.config == {"embed_dim": 8}  # null by default


@pytest.mark.parametrize("key", ["age_group=child", "woman&age_group=old", "woman"])
def test_targets_may_have_the_names_that_columns_have(key: str) -> None:
    config = compose(["data=wds", "data.train=x", f"balance.target={{man: 0.5, {key}: 0.3}}"])
    assert config.balance["target"] == {"man": 0.5, key: 0.3}
