"""A stopping rule or a best checkpoint that names what nobody measures is told before any work, and why."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import train
from balance.common.metric import Metric
from balance.errors import UserError
from conf.app.cli import compose
from conf.app.schema import Config
from conf.app.stop_metrics import named_metrics
from eval.foreseen import check_measured
from eval.runner import Suite, build_suite
from eval.sets import HeldOut
from models.training.stopping import Stopper, verdicts
from tests.launching import EVALUATORS, tiny_overrides

OWN = (
    EVALUATORS[:-1]
    + ", mine: {kind: tests.test_foreseen:Picky}, gone: {kind: parity, set: none, prompts: {a: a, b: b}}}"
)


class Picky:
    """An evaluator that needs more than features."""

    def __init__(self, name: str, config: dict[str, Any], data: Any) -> None:
        self.name = name

    def __call__(self, embed: Any, rng: Any, resamples: int) -> Iterator[Metric]:
        yield Metric("mine/weights", sum(p.numel() for p in embed.bundle.model.parameters()))


def configuration(world: Path, runs: Path, *more: str) -> Config:
    config = compose(tiny_overrides(world, runs, "name=a", f"eval.evaluators={OWN}", *more))
    config.eval.sets["none"] = {"path": str(world / "nowhere")}  # not named, so that it may be missing
    return config


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["stop.targets={rb/mean_partiy: 0.1}"], r"stop\.targets\.rb/mean_partiy .*; did you mean rb/mean_parity\?$"),
        (["stop.targets={br/mean_parity: 0.1}"], r"stop\.targets\.br/mean_parity .*; its evaluators are rb, ab, job, "),
        (["stop.quality={jobs/top1: 0.1}"], r"stop\.quality\.jobs/top1 .*; did you mean job\?$"),
        (["stop.quality={job/recall: 0.1}"], r"stop\.quality\.job/recall .*; job measures job/top1"),
        (["stop.quality={gone/mean_parity: 0.1}"], r"; gone is skipped: .*nowhere"),
        (["checkpoint.best=ab/min"], r"checkpoint\.best=ab/min is not .*; ab measures ab/max"),
        (["checkpoint.best=stop/score"], r"checkpoint\.best=stop/score is not"),
        (
            ["checkpoint.best=stop/quality", "stop.targets={rb/mean_parity: 0.1}"],
            r"checkpoint\.best=stop/quality is not",
        ),
    ],
)
def test_what_nobody_measures_is_told_before_any_work(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], sentence: str
) -> None:
    monkeypatch.setattr("conf.app.parts.prepare_stages", lambda *a: pytest.fail("the shards were labelled"))
    with pytest.raises(UserError, match=sentence):
        train.main(configuration(world, tmp_path, *more))


def test_a_dry_run_says_it_too(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = configuration(world, tmp_path, "dry_run=true", "stop.targets={rb/mean_partiy: 0.1}")
    assert train.main(wanted) == 0
    assert "warning: stop.targets.rb/mean_partiy is not measured by this run" in capsys.readouterr().out


def test_what_is_measured_passes_and_what_can_not_be_known_is_left_to_the_first_evaluation(
    world: Path, tmp_path: Path
) -> None:
    more = ["stop.targets={rb/mean_parity: 0.1, mine/anything: 1}", "checkpoint.best=stop/score"]
    config = configuration(world, tmp_path, *more, "stop.quality={job/top1: 0.1, retrieval/image_to_text_r5: 0.1}")
    wanted = config.eval
    check_measured(
        named_metrics(config), build_suite(wanted.sets, wanted.evaluators, 2, 8, HeldOut([config.data.eval]))
    )
    check_measured([("checkpoint.best=eval/seconds", "eval/seconds")], Suite([], {}, [], 2, 8))


def test_the_verdicts_are_those_of_a_stopper() -> None:
    metrics = [Metric("a/bias", 1.0), Metric("b/quality", 1.0)]
    for targets, quality in (({"a/bias": 1.0}, {}), ({}, {"b/quality": 1.0}), ({"a/bias": 1.0}, {"b/quality": 1.0})):
        assert [metric.name for metric in Stopper(targets, quality).judge(metrics)] == verdicts(targets, quality)


def test_resume_may_change_targets_but_not_what_quality_is_held_against() -> None:
    metrics = [Metric("a/bias", 1.0), Metric("b/quality", 1.0)]
    before = Stopper({"a/bias": 0.1}, {})
    before.judge(metrics)
    for targets in ({"a/bias": 0.2}, {"b/quality": 0.1}, {}):
        after = Stopper(targets, {})
        after.load_state_dict(before.state_dict())
        after.judge([Metric("a/bias", 0.5), Metric("b/quality", 0.5)])
        assert after.before == ({"a/bias": 1.0} if "a/bias" in targets else {})  # no value of later passes for it
    with pytest.raises(UserError, match=r"stop\.quality\.b/quality was not asked for when the run began"):
        Stopper({}, {"b/quality": 0.1}).load_state_dict(before.state_dict())
