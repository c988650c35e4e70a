"""The suite: every stimulus embedded once, equal results however the work is cut, bad input told in a sentence."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml
from accelerate.utils import set_seed

from balance.common.metric import Metric
from balance.common.writer import only_writer
from balance.errors import UserError
from eval.embed import Embedder
from eval.features import FeatureTable, content_key
from eval.pixels import Pixels
from eval.report.suite_page import families, render_suite
from eval.runner import build_suite
from eval.sets import EvalSet, load_set
from models.factory import ModelBundle, create
from models.training.distributed import Processes
from scripts import evaluate
from scripts.suite_tools import compose_suite, load_suite
from tests.conftest import ROOT
from tests.tiny import people_shards, picture, sample, write_tar
from tests.together import together

CPU = torch.device("cpu")


def build() -> ModelBundle:
    torch.manual_seed(0)
    wanted = yaml.safe_load((ROOT / "conf/model/tiny.yaml").read_text())
    return create(wanted["name"], wanted["config"], wanted.get("preprocess"))


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return build()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sets")
    people_shards(folder / "people", [20, 7])
    again = [(f"copy{n}", sample(n, {"gender": "man"})) for n in range(5)]
    write_tar(folder / "again" / "train-00000.tar", again)
    return {"people": {"path": str(folder / "people")}, "again": {"path": str(folder / "again")}}


EVALUATORS: dict[str, Any] = {
    "rb": {"kind": "parity", "set": "again", "prompts": {"man": "a man", "woman": "a woman"}},
    "ab": {
        "kind": "association",
        "set": "people",
        "label": "gender",
        "positive": "woman",
        "negative": "man",
        "concepts": ["nurse", "chef"],
    },
    "retrieval": {"kind": "retrieval", "set": "people"},
}


def counted(bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many pictures and texts the model is given."""
    seen = {"images": 0, "texts": 0}
    image, text = bundle.model.encode_image, bundle.model.encode_text

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        seen["images"] += len(pixels)
        return image(pixels)

    def encode_text(tokens: torch.Tensor) -> torch.Tensor:
        seen["texts"] += len(tokens)
        return text(tokens)

    monkeypatch.setattr(bundle.model, "encode_image", encode_image)
    monkeypatch.setattr(bundle.model, "encode_text", encode_text)
    return seen


def values(metrics: list[Metric]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics if metric.name != "eval/seconds"}


def test_each_stimulus_is_embedded_once(
    bundle: ModelBundle, sets: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(bundle, monkeypatch)
    twice = {**EVALUATORS, "rb2": EVALUATORS["rb"], "retrieval2": EVALUATORS["retrieval"]}
    build_suite(sets, twice, 20, 8).run(bundle, CPU)
    assert seen["images"] == 27  # the five of `again` are the first five of `people`
    assert seen["texts"] == 27 + 2 + 2  # captions, groups, concepts


def test_results_do_not_depend_on_the_batch_size_or_the_order_of_sets(
    bundle: ModelBundle, sets: dict[str, Any]
) -> None:
    found = [values(build_suite(sets, EVALUATORS, 50, size).run(bundle, CPU)) for size in (1, 5, 64)]
    turned = dict(reversed(EVALUATORS.items()))
    found.append(values(build_suite(sets, turned, 50, 7, keep_bytes=0).run(bundle, CPU)))
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-5)


def work(sets: dict[str, Any], out: str) -> None:
    dist.init_process_group("gloo")
    processes, bundle = Processes(), build()
    suite = build_suite(sets, EVALUATORS, 50, 4)
    for attempt in range(2):  # the second from the store
        found = values(suite.run(bundle, CPU, processes, cache=Path(out, "cache")))
        Path(out, f"{processes.rank}-{attempt}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_processes(
    bundle: ModelBundle, sets: dict[str, Any], tmp_path: Path
) -> None:
    one = values(build_suite(sets, EVALUATORS, 50, 16).run(bundle, CPU))
    assert together(3, work, sets, str(tmp_path)) == [0] * 3
    for rank in range(3):
        for attempt in range(2):
            found = json.loads((tmp_path / f"{rank}-{attempt}.json").read_text())
            assert found == pytest.approx(one, abs=1e-5)


def test_features_on_disk_are_not_computed_again(
    bundle: ModelBundle, sets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_suite(sets, EVALUATORS, 20, 8).run(bundle, CPU, cache=tmp_path)
    seen = counted(bundle, monkeypatch)
    second = build_suite(sets, EVALUATORS, 20, 8).run(bundle, CPU, cache=tmp_path)
    assert seen == {"images": 0, "texts": 0}
    assert values(second) == values(first)
    part = next(tmp_path.rglob("images-*.npz"))
    part.write_bytes(part.read_bytes()[:100])
    assert values(build_suite(sets, EVALUATORS, 20, 8).run(bundle, CPU, cache=tmp_path)) == values(first)
    assert seen["images"] == 27
    with torch.no_grad():
        bundle.model.logit_scale += 1e-3  # type: ignore[operator]
    build_suite(sets, EVALUATORS, 20, 8).run(bundle, CPU, cache=tmp_path)
    assert seen["images"] == 54, "other weights, other features"


def test_an_interrupted_run_goes_on_from_what_it_has(
    bundle: ModelBundle, sets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(bundle, monkeypatch)
    whole = bundle.model.encode_image

    def stop(pixels: torch.Tensor) -> torch.Tensor:
        if seen["images"] >= 16:
            raise KeyboardInterrupt
        return whole(pixels)

    monkeypatch.setattr(bundle.model, "encode_image", stop)
    with pytest.raises(KeyboardInterrupt):
        build_suite(sets, EVALUATORS, 20, 8).run(bundle, CPU, cache=tmp_path)
    monkeypatch.setattr(bundle.model, "encode_image", whole)
    build_suite(sets, EVALUATORS, 20, 8).run(bundle, CPU, cache=tmp_path)
    assert seen["images"] == 27


def test_pictures_are_kept_for_the_next_epoch_within_the_limit(bundle: ModelBundle, sets: dict[str, Any]) -> None:
    data = load_set("people", sets["people"])
    size = 3 * bundle.image_size**2
    pixels = Pixels(limit=10 * size)
    direct = torch.cat(list(Pixels(0).batches(bundle.resize, [data.pictures()])))  # type: ignore[arg-type]
    for _ in range(2):
        parts = list(pixels.batches(bundle.resize, [data.pictures()[:20], [], data.pictures()[20:]]))
        assert parts[1] is None
        assert torch.equal(torch.cat([part for part in parts if part is not None]), direct)
        assert len(pixels._kept) == 10


def test_a_table_of_features_grows() -> None:
    table, rng = FeatureTable(), np.random.default_rng(0)
    rows = torch.tensor(rng.normal(size=(50, 3)), dtype=torch.float32)
    keys = [content_key(str(n).encode()) for n in range(50)]
    for end in (1, 3, 30, 50):
        wanted = [*range(end), *range(end)]
        new = [wanted[place] for place in table.missing([keys[n] for n in wanted])]
        table.add([keys[n] for n in new], rows[new])
        assert len(table) == end
    assert torch.equal(table.get(keys[::-1]), rows.flip(0))


def test_a_truncated_prompt_is_named_once(
    bundle: ModelBundle, sets: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    long = "a photo of " + "very " * 100 + "old man"
    evaluators = {"rb": {"kind": "parity", "set": "again", "prompts": {"man": long, "woman": "a woman"}}}
    suite = build_suite(sets, evaluators, 20, 8)
    suite.run(bundle, CPU, cache=tmp_path)
    assert suite.truncated == [long]
    assert "cuts 1 text(s)" in capsys.readouterr().err
    suite.run(bundle, CPU, cache=tmp_path)
    assert capsys.readouterr().err == ""
    again = build_suite(sets, evaluators, 20, 8)
    again.run(bundle, CPU, cache=tmp_path)  # from the store, where nothing is tokenised
    assert again.truncated == [long]


def test_a_text_that_just_fits_is_not_called_truncated(bundle: ModelBundle) -> None:
    length = bundle.tokenizer([""]).shape[1]
    embed = Embedder(bundle, CPU)
    embed.texts([" ".join(["man"] * (length - 2)), ""])
    assert embed.truncated == []
    embed.texts([" ".join(["man"] * (length - 1))])
    assert len(embed.truncated) == 1


def test_features_that_are_not_finite_are_told(
    bundle: ModelBundle, sets: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = bundle.model.encode_text
    monkeypatch.setattr(bundle.model, "encode_text", lambda tokens: text(tokens) * float("nan"))
    with pytest.raises(UserError, match="model-x gives a feature that is not finite for the text 'a man'"):
        build_suite(sets, EVALUATORS, 20, 8).run(bundle, CPU, name="model-x")
    monkeypatch.setattr(bundle.model, "encode_image", lambda pixels: torch.full((len(pixels), 4), torch.inf))
    with pytest.raises(UserError, match=r"for the picture 'again/copy0' and 4 more"):
        build_suite({"again": sets["again"]}, {"rb": EVALUATORS["rb"]}, 20, 8).run(bundle, CPU)


def test_a_picture_that_cannot_be_decoded_is_named(bundle: ModelBundle) -> None:
    data = EvalSet("broken", [picture(0), picture(1)[:300]], [{}, {}], [(), ()], keys=["a.jpg", "b.jpg"])
    with pytest.raises(UserError, match=r"broken/b.jpg can't be decoded"):
        Embedder(bundle, CPU).images(data)


class Parts:
    """An evaluator of two sets, one of which may be missing, with pages."""

    partial = True

    def __init__(self, name: str, config: dict[str, Any], data: dict[str, EvalSet]) -> None:
        self.name, self.data = name, data
        self.skipped = [] if "b" in data else ["the test of b is left out"]
        self.pages: dict[str, str] = {}

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        yield Metric(f"{self.name}/sets", len(self.data))
        self.pages = {"curve": "<svg></svg>"}


def test_parts_that_cannot_run_and_pages_reach_the_suite(bundle: ModelBundle, sets: dict[str, Any]) -> None:
    evaluators = {"mine": {"kind": "tests.test_suite:Parts", "sets": {"a": "people", "b": "gone"}}}
    suite = build_suite({**sets, "gone": {"path": "/nowhere"}}, evaluators, 20, 8)
    assert len(suite.skipped) == 2
    assert "mine: the test of b is left out" in suite.skipped
    assert values(suite.run(bundle, CPU)) == {"mine/sets": 1}
    assert suite.pages == {"mine": {"curve": "<svg></svg>"}}


def test_an_evaluator_without_its_set_is_told(sets: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"rb\.set must be given for the kind parity: one of eval.sets \(people, again"):
        build_suite(sets, {"rb": {"kind": "parity", "prompts": {"a": "a", "b": "b"}}})


def suite_file(folder: Path, sets: dict[str, Any], **more: Any) -> Path:
    content = {
        "bootstrap": 20,
        "sets": {**sets, "gone": {"path": str(folder / "gone")}},
        "evaluators": {**EVALUATORS, "rb_gone": {**EVALUATORS["rb"], "set": "gone"}},
        "headline": {"RB": "rb/mean_parity"},
        **more,
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_evaluate_from_the_command_line(
    sets: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"suite={suite_file(tmp_path, sets)}", f"out={tmp_path / 'out'}", "device=cpu", "eval.bootstrap=30"]
    assert evaluate.main(arguments) == 0
    told = capsys.readouterr().out
    assert "rb_gone is skipped" in told
    assert "mean_parity" in told
    rows = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert {row["evaluator"] for row in rows} == {"rb", "ab", "retrieval", "eval"}
    assert next(row for row in rows if row["name"] == "rb/mean_parity")["prompts"] == "a man | a woman"
    facts = json.loads((tmp_path / "out/suite.json").read_text())
    assert facts["suite"] == "mine"
    assert facts["parameters"] == facts["image_parameters"] + facts["text_parameters"]
    page = (tmp_path / "out/suite.html").read_text()
    assert "rb_gone is skipped" in page
    assert not re.search(r"(src|href)=.?(https?:)?//", page), "the page must not load anything"


def evaluate_tiny(suite: str, out: str) -> int:
    if os.environ["RANK"] == "1":
        # As where another machine's generator draws other weights for one seed.
        evaluate.set_seed = lambda seed: set_seed(seed + 1)  # type: ignore[attr-defined]
    return evaluate.main([f"suite={suite}", "model=tiny", f"out={out}", "cache=null", "device=cpu"])


@pytest.mark.slow
def test_an_untrained_model_is_one_model_on_all_processes_and_each_time(sets: dict[str, Any], tmp_path: Path) -> None:
    suite = str(suite_file(tmp_path, sets))
    found = []
    for number, processes in enumerate((1, 1, 2)):
        out = tmp_path / str(number)
        assert together(processes, evaluate_tiny, suite, str(out)) == [0] * processes
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        found.append({row["name"]: row["value"] for row in rows if row["evaluator"] != "eval"})
    assert found[1] == found[0]
    assert found[2] == pytest.approx(found[0], abs=1e-5)


def test_the_order_and_the_names_of_a_sets_images_change_nothing(bundle: ModelBundle, tmp_path: Path) -> None:
    """Reversed, renamed, and spread over other shards: every figure and every end of an interval is the same."""
    found = []
    for way in (1, -1):
        images = [sample(n, {"gender": ("man", "woman")[n % 2]}) for n in range(24)][::way]
        members = [(f"{n:03}", one) for n, one in enumerate(images)]
        folder = tmp_path / str(way)
        for number, part in enumerate((members[:20], members[20:]) if way == 1 else (members[:5], members[5:])):
            write_tar(folder / f"train-{number:05}.tar", part)
        one = {"again": {"path": str(folder)}, "people": {"path": str(folder)}}
        suite = build_suite(one, EVALUATORS, 50, 8)
        found.append({m.name: (m.value, m.low, m.high) for m in suite.run(bundle, CPU) if m.name != "eval/seconds"})
    assert found[1] == found[0]


def test_results_go_neither_into_a_run_nor_where_another_writes(sets: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [f"suite={suite_file(tmp_path, sets)}", f"out={out}", "device=cpu"]
    with only_writer(out), pytest.raises(UserError, match=r"^Process \d+ on .* writes into"):
        evaluate.main(arguments)
    out.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (out / name).write_text("of a run")
    with pytest.raises(UserError, match="is a training run, whose metrics would be replaced"):
        evaluate.main(arguments)
    assert (out / "metrics.jsonl").read_text() == "of a run"


def test_pages_show_charts_of_families_and_fragments() -> None:
    rows = [
        {"name": f"ab/difference[{c}]", "evaluator": "ab", "value": v, "low": v - 1, "high": v + 1}
        for c, v in zip("xyz", (0.1, -0.3, 0.2), strict=True)
    ]
    rows += [{"name": f"ab/p[{c}]", "evaluator": "ab", "value": 0.5, "low": None, "high": None} for c in "xyz"]
    assert [*families([{**row, "metric": row["name"][3:]} for row in rows])] == ["difference"]
    facts = {
        "model": "<m>",
        "suite": "s",
        "sets": {"a": 3},
        "skipped": [],
        "truncated": ["long"],
        "kinds": {"ab": "association"},
        "seconds": {"all": 1.0},
        "date": "now",
        "image_size": 64,
        "loss": "clip",
    } | dict.fromkeys(("parameters", "image_parameters", "text_parameters"), 1)
    page = render_suite(facts, rows, {"ab": {"curve": "<svg>mine</svg>"}})
    assert "<svg>mine</svg>" in page
    assert "&lt;m&gt;" in page
    assert page.count("<figure>") == 1, "an evaluator's own pictures stand for the general ones"
    assert render_suite(facts, rows, {}).count("<figure>") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["suite=fulll"], "no such choice; did you mean full"),
        (["suite=/nowhere.yaml"], "there is no such file; give one, or one of demo, full"),
        (["model.name=ViT-B-33"], "did you mean ViT-B-32"),
        (["suites=full"], "Unknown key suites"),
        (["suite=demo", "eval.root=/nowhere"], "eval.root=/nowhere: there is no such folder"),
        (["suite=demo", "eval.root=."], "has nothing to run"),
    ],
)
def test_bad_commands_are_told(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        evaluate.main([*arguments, f"out={tmp_path}", "device=cpu"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_full_suite_on_real_data(shared_data: Path, tmp_path: Path) -> None:
    config = compose_suite([f"eval.root={shared_data}"], "full")
    suite = load_suite(config, keep_bytes=0)
    # The pictures of modern instruments were never published.
    assert all("weapon/instrument-modern" in s or "not the published" in s for s in suite.skipped)
    assert {type(evaluator).__name__.lower() for evaluator in suite.evaluators} >= {
        "parity",
        "eat",
        "hypodescent",
        "retrieval",
    }
