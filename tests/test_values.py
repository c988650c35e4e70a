"""Every numeric key of the configuration, given values that make no sense."""

import copy
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import train
from balance.errors import UserError
from conf.app.cli import compose, compose_raw, to_config
from conf.app.schema import Config
from tests.launching import tiny_overrides

WRONG = ("0", "-1", "nan", "inf", "1e300", "1000000000000000000000")


def schema_fields(kind: Any = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from schema_fields(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field


NUMERIC = [key for key, field in schema_fields() if re.search(r"\b(int|float)\b", str(field.type))]


def test_every_number_says_what_it_may_be() -> None:
    lacking = [key for key, field in schema_fields() if key in NUMERIC and "allowed" not in field.metadata]
    assert lacking == []
    assert len(NUMERIC) > 30


def attempt(act: Callable[[], Any]) -> tuple[Any, str | None]:
    """What an act gives, or the sentence that refuses it."""
    try:
        return act(), None
    except UserError as error:
        return None, str(error)


@pytest.fixture(scope="module")
def composed() -> Any:
    """A configuration to change: composing takes a while."""
    return compose_raw(["data=wds", "data.train=x"])


@pytest.mark.parametrize("key", NUMERIC)
def test_numbers_out_of_range_are_refused_by_name(key: str, composed: Any) -> None:
    field = dict(schema_fields())[key]
    mapping = "dict" in str(field.type)
    for text in WRONG:
        wrong = float(text) if re.search("[a-z]", text) else int(text)
        given = {"a/b": wrong} if mapping else [wrong, wrong] if "tuple" in str(field.type) else wrong
        changed = copy.deepcopy(composed)
        OmegaConf.update(changed, key, given, merge=False)
        config: Any
        config, refused = attempt(lambda changed=changed: to_config(changed))
        if refused is not None:
            assert refused.startswith(key)
            assert re.search(r"must be |could not be converted|is not a valid", refused), refused
            continue
        for part in key.split("."):
            config = getattr(config, part)
        values = config.values() if mapping else config if isinstance(config, tuple | list) else [config]
        for value in values:
            assert math.isfinite(value)
            assert value in field.metadata["allowed"]


BALANCE = ("keep", "min_keep", "eps_representation", "eps_association", "min_concept_kept", "min_concept_samples")
OPTIONS = [
    *(f"balance.{name}" for name in (*BALANCE, "max_repeat", "penalty", "target.woman")),
    *("stages.0.share", "model.lora.rank", "model.lora.alpha", "model.lora.dropout", "model.freeze.image"),
    *("eval.evaluators.tests.samples", "eval.evaluators.near.k"),
]


@pytest.mark.parametrize("key", ["data.max_bad", "schedule.warmup", "eval.bootstrap", *OPTIONS])
def test_a_dry_run_takes_a_number_or_refuses_it(
    key: str, world: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path_factory.getbasetemp() / "dry"  # labelled once
    for wrong in WRONG:
        overrides = tiny_overrides(world, runs, "dry_run=true", *_given(key, wrong))
        status, refused = attempt(lambda overrides=overrides: train.main(compose(overrides)))
        assert status == 0 or (refused is not None and key.rsplit(".", 1)[-1] in refused and len(refused) < 400), (
            refused
        )
        assert "Traceback" not in capsys.readouterr().err


def _given(key: str, value: str) -> list[str]:
    if key.startswith("stages"):
        return [f"stages=[{{share: {value}}}, {{share: 0.5}}]"]
    if key.startswith("model.lora"):
        lora = {"rank": "2", "alpha": "4", "dropout": "0"} | {key.rsplit(".", 1)[-1]: value}
        return [f"model.lora={{{', '.join(f'{name}: {one}' for name, one in lora.items())}}}"]
    if key.startswith("eval.evaluators.tests"):
        return [f"eval.evaluators={{tests: {{kind: eat, tests: weat, samples: {value}}}}}"]
    if key.startswith("eval.evaluators.near"):
        return [f"eval.evaluators={{near: {{kind: retrieval_bias, set: faces, label: gender, k: {value}}}}}"]
    return [f"{key}={value}"]
