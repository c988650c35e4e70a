"""The demo world: reproducible, skewed as configured, balanced where measured, with labels that say what is told."""

import hashlib
import io
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from balance.errors import UserError
from balance.stream.samples import parse_sample, read_shard
from balance.stream.shards import expand_shards
from scripts.demo_world.config import load_world
from scripts.demo_world.grammar import WORDS, caption
from scripts.demo_world.ideal import ideal_bias
from scripts.demo_world.people import draw_scene
from scripts.demo_world.splits import sample, split_sizes
from scripts.demo_world.write import make_world

WORLD = Path(__file__).resolve().parent.parent / "scripts/demo_world/skewed.yaml"
GENDERED = {
    gender: {word for (g, _), words in WORDS.items() if g == gender for word in words} for gender in ("woman", "man")
}


@pytest.fixture(scope="module")
def scenes() -> list[Any]:
    world = load_world(WORLD)
    return [draw_scene(world, Random(f"test/{i}")) for i in range(20_000)]


def test_the_joint_is_skewed_as_configured(scenes: list[Any]) -> None:
    world = load_world(WORLD)
    views = Counter(scene.view for scene in scenes)
    for view, share in world.views.items():
        assert abs(views[view] / len(scenes) - share) < 0.02
    women = [scene for scene in scenes if scene.gender == "woman"]
    assert 0.27 < len(women) / len(scenes) < 0.36
    for name, job in world.occupations.items():
        rows = [scene for scene in scenes if scene.occupation == name]
        assert abs(sum(scene.gender == "woman" for scene in rows) / len(rows) - job.p_woman) < 0.05
        home = [scene.setting == job.home for scene in rows if scene.setting]
        assert abs(sum(home) / len(home) - world.at_home) < 0.05


def test_labels_say_what_picture_or_caption_tells(scenes: list[Any]) -> None:
    for scene in scenes[:3000]:
        labels, text = scene.labels(), caption(scene, Random(0))
        if scene.view in ("hidden", "scene") and "gender" not in scene.told:
            assert labels["gender"] is None
        if scene.view in ("portrait", "hidden", "scene") and "occupation" not in scene.told:
            assert labels["occupation"] is None
        words = set(text.replace(",", "").split())
        other = {"woman": "man", "man": "woman"}.get(scene.gender or "")
        if "gender" in scene.told and scene.gender:
            assert any(word in text for word in GENDERED[scene.gender])
            assert not words & {w for w in GENDERED[other or ""] if " " not in w}
        else:
            assert not words & {w for group in GENDERED.values() for w in group if " " not in w}


def test_ambiguous_pictures_come_with_captions_that_tell(scenes: list[Any]) -> None:
    portraits = [s for s in scenes if s.view == "portrait" and s.occupation]
    hidden = [s for s in scenes if s.view == "hidden"]
    assert sum("occupation" in s.told for s in portraits) / len(portraits) > 0.5
    assert sum("gender" in s.told for s in hidden) / len(hidden) > 0.5


def test_the_ideal_values_are_those_of_the_joint(scenes: list[Any]) -> None:
    """The formulas against counts of a sample: p(text | image) / p(text) with everything counted."""
    world = load_world(WORLD)
    told = [s for s in scenes if "gender" in s.told]
    prior = sum(s.gender == "woman" for s in told) / len(told)
    parity = []
    for setting in world.settings:
        rows = [s for s in scenes if s.setting == setting]
        share = sum(s.gender == "woman" for s in rows) / len(rows)
        man, woman = (1 - share) / (1 - prior), share / prior
        parity.append((man - woman) / (man + woman))
    ideal = ideal_bias(world)
    assert abs(sum(parity) / len(parity) - ideal["parity"]) < 0.04
    assert 0.2 < ideal["parity"] < 0.3
    # Two occupations of 85 % women and eight of 12 %: 0.85 / 2.66 of the women's mass against 0.15 / 7.34 of the men's.
    assert abs(ideal["ab"] - (0.85 / 2.66 - 0.15 / 7.34)) < 1e-9
    even = {name: replace(job, p_woman=0.5) for name, job in world.occupations.items()}
    fair = ideal_bias(replace(world, occupations=even, plain_p_woman=0.5))
    assert fair["ab"] == pytest.approx(0)
    assert fair["parity"] == pytest.approx(0)


def test_evaluation_splits_are_balanced() -> None:
    world = load_world(WORLD)
    for split, size in split_sizes(world, 0).items():
        rows = [sample(world, split, i, Random(i)) for i in range(size)]
        if split == "eval/people":
            pairs = Counter((s.gender, s.occupation) for s in rows)
            assert len(set(pairs.values())) == 1
            assert len(pairs) == 2 * len(world.occupations)
        elif split == "eval/portraits":
            assert len(set(Counter(s.gender for s in rows).values())) == 1
            assert {s.occupation for s in rows} == {None}
        elif split != "train":
            assert {s.gender for s in rows} == {None}
            assert len(set(Counter(s.setting for s in rows).values())) == 1


def digest(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.*"))}


def test_bytes_do_not_depend_on_processes_and_a_whole_folder_is_kept(tmp_path: Path) -> None:
    world = load_world(WORLD)
    assert make_world(world, tmp_path / "a", 60, 1, workers=1, quiet=True)
    assert make_world(world, tmp_path / "b", 60, 1, workers=2, quiet=True)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert not make_world(world, tmp_path / "a", 60, 1, workers=1, quiet=True)
    assert make_world(world, tmp_path / "a", 60, 2, workers=1, quiet=True)
    assert digest(tmp_path / "a") != digest(tmp_path / "b")
    (shard,) = expand_shards(str(tmp_path / "a/train"))
    samples = [parse_sample(raw) for raw in read_shard(shard)]
    assert len(samples) == 60
    assert all(Image.open(io.BytesIO(s.image)).size == (64, 64) for s in samples)
    assert json.loads((tmp_path / "a/world.json").read_text())["seed"] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    with pytest.raises(UserError, match="not a demo world"):
        make_world(world, tmp_path / "mine", 60, 1, workers=1, quiet=True)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("working: 0.26 ", "woking: 0.26 ", "'working'"),
        ("at_home: 0.85", "at_home: 1.85", "at_home is 1.85"),
        ("home: hospital", "home: hospitl", "'hospital'"),
        ("at_home: 0.85", "", "at_home missing"),
    ],
)
def test_bad_worlds_are_told(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    text = WORLD.read_text()
    assert old in text
    (tmp_path / "world.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=sentence):
        load_world(tmp_path / "world.yaml")


@pytest.mark.slow
def test_the_demo_compares_two_runs(tmp_path: Path, root: Path) -> None:
    make_world(load_world(WORLD), tmp_path / "data", 600, 0, workers=1, quiet=True)
    command = [sys.executable, "scripts/demo.py", "--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "data")]
    small = [
        "seed=1",
        "schedule.epochs=1",
        "schedule.epoch_samples=128",
        "data.batch_size=32",
        "track=none",
        "eval.bootstrap=20",
    ]
    done = subprocess.run([*command, *small], capture_output=True, text=True, cwd=root, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for words in ("data RB", "model AB (portraits)", "unbalanced report:", "balanced report:", "samples seen"):
        assert words in done.stdout
