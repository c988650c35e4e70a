"""The zoo: its list, resuming, and analyses that recover what was planted."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from balance.errors import UserError
from eval.evaluators.eat_stimuli import read_definitions
from eval.options import stimuli
from eval.zoo.regression import choose_tests, correlations, effects, impressions_model, matched_contrasts, mixed_model
from models.checkpoint import save_checkpoint
from models.factory import create
from scripts import zoo, zoo_analysis
from scripts.zoo_models import FACTS, read_zoo, run_facts
from tests.launching import run
from tests.tiny import people_shards


def planted(models: int = 60, slope: float = 0.3, noise: float = 0.1, seed: int = 0) -> pd.DataFrame:
    """Effects with a known slope on the size of the data, and families with known offsets."""
    rng = np.random.default_rng(seed)
    offsets = {"cc12m": 0.0, "dfn": 0.6}
    tests = {name: len(f"{t.order}{t.group}") for name, t in read_definitions("valence26").tests.items()}
    rows = []
    for number in range(models):
        family, size, parameters = rng.choice([*offsets]), 10 ** rng.uniform(6, 10), 10 ** rng.uniform(7, 9)
        facts = {
            "model": f"m{number}",
            "dataset_family": family,
            "dataset_size": size,
            "parameters": parameters,
            "architecture_family": rng.choice(["ViT", "ResNet"]),
        }
        for test in tests:
            value = (np.log(size) - np.log(1e8)) / 2.66 * slope + offsets[family] + rng.normal(0, noise)
            value += (tests[test] % 7 - 3) / 10
            rows.append({**facts, "kind": "eat", "evaluator": "v", "name": f"v/d[{test}]", "value": value})
    return pd.DataFrame(rows)


def test_the_mixed_model_recovers_planted_coefficients() -> None:
    rows = effects(planted())
    assert rows["group"].nunique() == 20, "five pairs of concepts in four orders"
    fit = mixed_model(rows)
    found = fit.table.set_index("term")
    size = found.loc["log_dataset_size"]
    assert size["coefficient"] == pytest.approx(0.3, abs=0.03)
    assert size["p"] < 1e-6
    assert found.loc["dataset_family[T.dfn]", "coefficient"] == pytest.approx(0.6, abs=0.03)
    assert abs(found.loc["log_params", "coefficient"]) < 0.02
    assert abs(found.loc["architecture_family[T.ViT]", "coefficient"]) < 0.03
    assert fit.scale == pytest.approx(0.01, rel=0.2)
    assert fit.rows == len(rows)


def test_what_does_not_vary_or_is_determined_is_left_out_and_told() -> None:
    rows = effects(planted(30))
    rows["architecture_family"] = "ViT"
    rows["same"] = rows["dataset_family"].map({"cc12m": "a", "dfn": "b"})
    rows.loc[rows["model"] == "m3", "dataset_size"] = np.nan
    fit = mixed_model(rows, extra=["same", "never"])
    told = " ".join(fit.notes)
    for sentence in ("architecture_family is left out", "same is left out: the other facts", "never is", "1 model(s)"):
        assert sentence in told
    assert "same" not in fit.formula
    rows["dataset_size"], rows["parameters"], rows["dataset_family"] = 1.0, 1.0, "x"
    with pytest.raises(UserError, match="at least two models that differ"):
        mixed_model(rows)


def test_correlations_with_quality() -> None:
    models = [f"m{number}" for number in range(12)]
    quality = pd.Series(np.linspace(0, 1, 12), index=models)
    rng = np.random.default_rng(1)
    values = {
        "up": quality.to_numpy(),
        "down": -2 * quality.to_numpy(),
        "none": rng.normal(size=12),
        "same": [1.0] * 12,
    }
    rows = [
        {"model": model, "name": name, "value": value}
        for name, column in values.items()
        for model, value in zip(models, column, strict=True)
    ]
    found = correlations(pd.DataFrame(rows), quality).set_index("name")
    assert found.loc["up", "r"] == pytest.approx(1)
    assert found.loc["down", "r"] == pytest.approx(-1)
    assert found.loc["none", "low"] < 0 < found.loc["none", "high"]
    assert "same" not in found.index
    assert (found["q"] >= found["p"]).all()


def contrast_rows(shift: float) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = []
    for architecture in range(8):
        base = rng.normal()
        for size in (1.0, 2.0):
            value = base + shift * (size == 2.0) + rng.normal(0, 0.05)
            rows.append({"name": "x", "architecture": architecture, "dataset_size": size, "value": value})
    return pd.DataFrame(rows)


def test_a_contrast_of_matched_models() -> None:
    table = contrast_rows(0.5)
    found = matched_contrasts(table, "dataset_size", 1.0, 2.0, ["architecture"]).iloc[0]
    assert found["pairs"] == 8
    assert found["difference"] == pytest.approx(0.5, abs=0.1)
    assert found["d"] == pytest.approx(found["difference"] / table["value"].std(ddof=1))
    assert found["p"] < 1e-4
    assert found["p_wilcoxon"] == pytest.approx(2 / 2**8)
    with pytest.raises(UserError, match="no measure has two pairs"):
        matched_contrasts(table, "dataset_size", 1.0, 3.0, ["architecture"])


def test_differences_that_rounding_alone_tells_apart_are_no_finding() -> None:
    rows = [(model, size, low + 0.1 * (size - 1)) for model, low in enumerate((0.1, 0.2, 0.7)) for size in (1.0, 2.0)]
    table = pd.DataFrame(rows, columns=["architecture", "dataset_size", "value"]).assign(name="r5")
    differences = table.pivot(index="architecture", columns="dataset_size", values="value").diff(axis=1)[2.0]
    assert 0 < np.ptp(differences) < 1e-15
    with pytest.raises(UserError, match="no measure has two pairs"):
        matched_contrasts(table, "dataset_size", 1.0, 2.0, ["architecture"])


@pytest.fixture(scope="module")
def checkpoints(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    wanted = yaml.safe_load((root / "conf/model/tiny.yaml").read_text())
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        bundle = create("tiny", wanted["config"])
        state = {"model": bundle.model.state_dict(), "model_config": bundle.config}
        paths.append(save_checkpoint(tmp_path_factory.mktemp("zoo") / f"run{seed}", 1, state))
    return paths


@pytest.fixture
def zoo_file(tmp_path: Path, checkpoints: list[Path]) -> Path:
    people_shards(tmp_path / "people", [12])
    suite = {
        "bootstrap": 20,
        "sets": {"people": {"path": str(tmp_path / "people")}},
        "evaluators": {
            "rb": {"kind": "parity", "set": "people", "prompts": {"man": "a man", "woman": "a woman"}},
            "retrieval": {"kind": "retrieval", "set": "people"},
        },
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    models = [
        {"from": str(path), "name": f"m{n}", "facts": {"dataset": "demo", "dataset_size": 10 * (n + 1)}}
        for n, path in enumerate(checkpoints)
    ]
    path = tmp_path / "zoo.yaml"
    path.write_text(yaml.safe_dump({"suite": str(tmp_path / "suite.yaml"), "models": models}))
    return path


def test_a_zoo_is_measured_once(
    zoo_file: Path, checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [f"zoo={zoo_file}", f"out={tmp_path / 'out'}", "device=cpu"]
    assert zoo.main(arguments) == 0
    table = pd.read_parquet(tmp_path / "out/zoo.parquet")
    assert table.groupby("model").size().to_dict() == {"m0": 8, "m1": 8}
    assert set(table.loc[table["model"] == "m1", "dataset_size"]) == {20}
    assert (table["parameters"] > 0).all()
    assert table.groupby("name")["value"].nunique()["rb/mean_parity"] == 2
    assert len(pd.read_csv(tmp_path / "out/zoo.csv")) == len(table)
    assert (tmp_path / "out/models/m0/suite.html").is_file()
    assert not (tmp_path / "out/models/m0/features").exists()

    measured: list[str] = []
    monkeypatch.setattr(zoo, "measure_one", lambda model, *_: measured.append(model.name))
    assert zoo.main(arguments) == 0
    assert measured == []
    os.utime(checkpoints[1], (1, 1))
    zoo.main(arguments)
    assert measured == ["m1"], "its weights are others"
    measured.clear()
    zoo.main([*arguments, "eval.bootstrap=30"])
    assert measured == ["m0", "m1"], "the suite is another"


def test_a_model_that_cannot_be_loaded_is_left_out(
    zoo_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(zoo_file.read_text())
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    content["models"].insert(0, {"from": str(tmp_path / "broken.pt")})
    zoo_file.write_text(yaml.safe_dump(content))
    assert zoo.main([f"zoo={zoo_file}", f"out={tmp_path / 'out'}", "device=cpu"]) == 1
    assert "broken is left out" in capsys.readouterr().err
    assert pd.read_parquet(tmp_path / "out/zoo.parquet")["model"].nunique() == 2


def test_the_lists_of_the_project() -> None:
    _, small = read_zoo("small")
    facts = {model.name: model.facts for model in small}
    assert facts["ViT-B-32:laion2b_s34b_b79k"]["dataset_family"] == "laion"
    assert facts["RN50:yfcc15m"] == {
        "dataset": "YFCC-15M",
        "dataset_family": "yfcc",
        "dataset_size": 1.5e7,
        "architecture_family": "ResNet",
    }
    _, every = read_zoo("open_clip")
    assert len(every) > 100
    lacking = [model.name for model in every if model.facts["architecture_family"] is None]
    assert lacking == []
    # Ghate et al. (2025) count SigLIP, SO400M and plus models as specialised; ViTamin's name begins with ViT.
    families = Counter(model.facts["architecture_family"] for model in every)
    assert families["specialised ViT"] == 28
    assert {model.facts["architecture_family"] for model in every if "ViTamin" in model.name} == {"ViT"}
    assert Counter(model.facts["dataset_family"] for model in every)["commonpool"] == 21
    unsized = [model.name for model in every if model.facts["dataset_size"] is None]
    assert len(unsized) == 11
    assert all(name.partition(":")[2] in ("meta", "metaclip_altogether", "metaclip2_worldwide") for name in unsized)
    table = yaml.safe_load(FACTS.read_text())
    assert all(row["source"] for kind in table.values() for row in kind), "each line names its source"
    assert all("source" not in model.facts for model in every)


def test_a_table_of_ones_own_is_read_by_its_columns(tmp_path: Path) -> None:
    rows = [
        {"m": f"m{n}", "sort": "eat", "test": f"v/d[{t}]", "d": n + t, "size": 10.0**n}
        for n in range(4)
        for t in (0, 1)
    ]
    path = tmp_path / "mine.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    columns = {"model": "m", "kind": "sort", "name": "test", "value": "d", "dataset_size": "size"}
    table = zoo_analysis.read_table(path, columns)
    assert {"model", "kind", "name", "value", "dataset_size", "evaluator"} <= set(table.columns)
    assert set(table["evaluator"]) == {"v"}
    (tmp_path / "zoo.csv").write_text(path.read_text())
    assert zoo_analysis.find_table(tmp_path) == tmp_path / "zoo.csv"
    for given, sentence in (
        ({**columns, "kind": "kinds"}, "columns.kind=kinds: .* has no such column; it has m, sort"),
        ({"model": "m"}, r"has no column kind; .* say columns={kind: <name>}"),
    ):
        with pytest.raises(UserError, match=sentence):
            zoo_analysis.read_table(path, given)
    wanted = [f"zoo={path}", "columns={model: m, kind: sort, name: test, value: d}"]
    for more, sentence in (
        (["contrast=size", "between=[1, 7]"], "between="),
        (["contrast=architecture"], "contrast=architecture is no fact"),
        (["extra=[balance]"], "extra=balance is no fact"),
        (["quality=top"], "quality=top is neither"),
    ):
        with pytest.raises(UserError, match=sentence):
            zoo_analysis.main([*wanted, *more, f"out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_a_run_tells_its_own_facts(world: Path, straight: Path, tmp_path: Path) -> None:
    assert run(world, tmp_path, "name=plain", "balance=none", "seed=5", "schedule.epoch_samples=32") == 0
    balanced, plain = run_facts(straight), run_facts(tmp_path / "plain")
    assert plain["samples_seen"] == 96
    assert balanced["dataset_size"] == plain["dataset_size"] == 200  # so that the two can make a pair
    assert (balanced["balance"], plain["balance"], plain["seed"]) == ("m4", "none", 5)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"model": []}, "takes the keys"),
        ({"models": []}, "names no model"),
        ({"open_clip": ["ViT-B-99:*"]}, "no weights that fit"),
        ({"models": [{"path": "x"}]}, "a model has `from`"),
        ({"models": [{"from": "/nowhere"}]}, "is no file, run"),
        ({"open_clip": ["RN50:cc12m"], "models": [{"from": "RN50:cc12m", "name": "RN50:cc12m"}]}, "are called RN50"),
    ],
)
def test_bad_lists_are_told(content: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=sentence):
        read_zoo(str(path))


def test_the_regression_of_impressions_recovers_what_was_planted() -> None:
    attributes = stimuli("impressions")["attributes"]
    rng = np.random.default_rng(3)
    rows = []
    for number in range(12):
        facts = {"dataset_size": 10 ** rng.uniform(6, 9), "samples_seen": 10 ** rng.uniform(8, 10)}
        facts |= {"image_parameters": rng.uniform(1e7, 1e8), "text_parameters": rng.uniform(1e7, 1e8)}
        for attribute, one in attributes.items():
            value = 0.1 + 0.5 * one["reliability"] + rng.normal(0, 0.02)
            name = f"omi/similarity[{attribute}]"
            rows.append({**facts, "model": f"m{number}", "kind": "impressions", "name": name, "value": value})
    found = impressions_model(pd.DataFrame(rows)).set_index("term")
    assert found.loc["human_irr", "coefficient"] == pytest.approx(0.5, abs=0.02)
    assert found.loc["human_irr", "p"] < 1e-20
    assert abs(found.loc["image_mparams", "coefficient"]) < 0.02
    with pytest.raises(UserError, match="lack samples_seen"):
        impressions_model(pd.DataFrame(rows).drop(columns="samples_seen"))


def test_some_tests_alone_are_analysed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = planted(12)
    inside = list(read_definitions("valence26").tests)
    words = rows[rows["name"] == rows["name"].iloc[0]]
    other = [words.assign(evaluator=who, name=f"{who}/d[weat1]") for who in ("weat", "seat")]
    table = pd.concat([rows, *other], ignore_index=True)
    table.to_parquet(tmp_path / "zoo.parquet")
    everything = effects(table)
    (own,) = set(rows["evaluator"])
    for wanted, expected in (
        ([own], {own}),
        (["weat"], {"weat"}),  # not seat, whose tests have the same names
        (["weat1"], {"weat", "seat"}),
        ([own, "seat"], {own, "seat"}),
    ):
        assert set(choose_tests(everything, wanted)["evaluator"]) == expected
    published = choose_tests(everything, ["valence26"])  # by its tests, whatever the evaluator is called
    assert set(published["evaluator"]) == {own}
    assert (set(published["test"]), published["group"].nunique()) == (set(inside), 20)
    with pytest.raises(UserError, match="tests=weat2: the zoo has no such association tests; it has weat"):
        choose_tests(everything, ["weat2"])
    assert zoo_analysis.main([f"zoo={tmp_path}", "tests=valence26", f"out={tmp_path / 'some'}"]) == 0
    assert (
        f"The association tests are {rows['name'].nunique()} of {rows['name'].nunique() + 2}: valence26."
        in " ".join(capsys.readouterr().out.split())
    )
    assert zoo_analysis.main([f"zoo={tmp_path}", f"out={tmp_path / 'all'}"]) == 0
    tables = [(tmp_path / which / "mixed_model.csv").read_text() for which in ("some", "all")]
    assert tables[0] != tables[1]


def test_an_analysis_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = planted(12)
    models = rows.drop_duplicates("model")
    rng = np.random.default_rng(4)
    top1 = models.assign(name="imagenet/top1", kind="zeroshot", evaluator="imagenet", value=rng.uniform(size=12))
    sizes = models.assign(name="v/mean_size", value=rng.uniform(size=12))
    table = pd.concat([rows, top1, sizes], ignore_index=True).assign(dataset="d")
    table["balance"] = np.where(table["model"].str[1:].astype(int) % 2, "m4", "none")
    table.to_parquet(tmp_path / "zoo.parquet")
    arguments = [f"zoo={tmp_path}", "contrast=balance", "same=[dataset_family, architecture_family]", "extra=[balance]"]
    assert zoo_analysis.main(arguments) == 0
    told = capsys.readouterr().out
    assert "no model of this zoo has been measured on impressions" in told
    assert "balance[T.none]" in (tmp_path / "mixed_model.csv").read_text()
    page = (tmp_path / "analysis.html").read_text()
    assert page.count("<figure>") == 3
    assert "balance: m4 – none" in page
    assert not re.search(r"(src|href)=.?(https?:)?//", page)
    with pytest.raises(UserError, match="is neither a metric nor a fact"):
        zoo_analysis.main([f"zoo={tmp_path}", "quality=nothing"])
    with pytest.raises(UserError, match="no fact in which the models"):
        zoo_analysis.main([f"zoo={tmp_path}", "contrast=dataset"])
    with pytest.raises(UserError, match=r"must be two values of balance, which has m4, none"):
        zoo_analysis.main([f"zoo={tmp_path}", "contrast=balance", "between=[m4, other]"])
    with pytest.raises(UserError, match=r"there is no zoo\.parquet"):
        zoo_analysis.main(["zoo=/nowhere"])
