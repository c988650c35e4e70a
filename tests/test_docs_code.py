"""The Python in the documentation runs, and the names it gives are there."""

import importlib
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from balance.labels.annotate import annotate_shards
from balance.labels.attributes import build_annotator, read_attributes
from balance.m4.cells import Cells
from balance.m4.counting import count_parquet
from balance.m4.plan import Plan
from balance.m4.planfile import save_plan
from balance.m4.problem import Problem
from balance.m4.solve import solve
from balance.m4.system import System
from balance.stream.sampler import repeats
from eval.runner import build_suite
from models.factory import create
from tests.conftest import ROOT
from tests.tiny import ATTRIBUTES, people_meta, people_shards

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
BLOCKS = {name: re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) for name, text in TEXTS.items()}


def test_the_blocks_are_those_that_run_here() -> None:
    found = {name: len(blocks) for name, blocks in BLOCKS.items() if blocks}
    assert found == {"docs/extending.md": 1, "docs/m4.md": 1, "docs/own-trainer.md": 2}


def test_a_plan_is_made_explained_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    woman = rng.random((500, 1)) < 0.3
    names = {"s": woman.astype(float), "y": (rng.random((500, 2)) < 0.2 + 0.3 * woman).astype(np.uint8)}
    exec(BLOCKS["docs/m4.md"][0], names)
    assert (tmp_path / "plan/plan.json").is_file()
    assert abs(names["plan"].after.representation_bias) < 0.02


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_plan_is_used_in_a_pipeline_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shards = people_shards(tmp_path / "shards", [60])
    files = annotate_shards(shards, build_annotator(ATTRIBUTES), tmp_path / "attributes", progress=False)
    plan = solve(count_parquet([str(file) for file in files]), Problem(target={"woman": 0.5}, keep=0.8))
    save_plan(plan, tmp_path / "plan")
    names: dict[str, Any] = {}
    exec(BLOCKS["docs/own-trainer.md"][0], names)
    read = read_attributes(files[0])
    uses = repeats(plan.rates(read.s, read.y), read.keys, 0, 0)
    assert Counter(names["keys"]) == +Counter(dict(zip(read.keys, uses.tolist(), strict=True)))


def test_rates_of_a_frame_go_into_a_sampler() -> None:
    frame = pd.DataFrame([people_meta(number) for number in range(400)])
    names: dict[str, Any] = {"frame": frame}
    exec(BLOCKS["docs/own-trainer.md"][1], names)
    assert names["plan"].after.representation_bias < 0.02 < names["plan"].before.representation_bias
    assert set(names["sampler"]) <= set(range(400))


def test_an_evaluator_of_ones_own_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brightness.py").write_text(BLOCKS["docs/extending.md"][0])
    monkeypatch.syspath_prepend(tmp_path)
    people_shards(tmp_path / "people", [12])
    torch.manual_seed(0)
    wanted = yaml.safe_load((ROOT / "conf/model/tiny.yaml").read_text())
    suite = build_suite(
        {"people": {"path": str(tmp_path / "people")}},
        {"light": {"kind": "brightness:Brightness", "set": "people"}},
        20,
        8,
    )
    found = {one.name: one for one in suite.run(create(wanted["name"], wanted["config"]), torch.device("cpu"))}
    del sys.modules["brightness"]
    metric = found["light/bright"]
    assert metric.low is not None
    assert metric.high is not None
    assert 0 <= metric.low <= metric.value <= metric.high <= 1
    assert metric.count == 12


def test_names_of_the_code_are_there() -> None:
    kinds = {"Plan": Plan, "Cells": Cells, "System": System}
    fields = {name: {*dir(kind), *kind.__dataclass_fields__} for name, kind in kinds.items()}
    absent = []
    for page, text in TEXTS.items():
        found = re.findall(r"`(Plan|Cells|System)\.(\w+)", text)
        absent += [f"{page}: {kind}.{name}" for kind, name in found if name not in fields[kind]]
        found = re.findall(r"\b((?:balance|models|eval|conf)\.[a-z_0-9.]+)\.(\w+)\b", text)
        modules = {one for one in found if (ROOT / one[0].replace(".", "/")).with_suffix(".py").is_file()}
        modules = {one for one in modules if one[0] != "eval.sets"}  # keys of the configuration
        absent += [f"{page}: {m}.{n}" for m, n in modules if not hasattr(importlib.import_module(m), n)]
        found = re.findall(r"`((?:balance|models|eval|conf|scripts)/[\w/]+\.\w+)`", text)
        absent += [f"{page}: {path}" for path in found if not (ROOT / path).exists()]
    assert absent == []
