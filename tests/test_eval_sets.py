"""What an evaluation set leaves out: counted by cause, said, and too much of it refused before anything is labelled."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balance.errors import UserError
from eval.evaluators.zeroshot import ZeroShot
from eval.runner import build_suite
from eval.sets import NO_NAME, NO_NUMBER, HeldOut, MissingSet, load_set
from tests.tiny import picture, write_tar

CUT = picture(1, 64)[:-200]
UNDECODABLE = "undecodable picture"


def classes_set(folder: Path, numbers: list[str], names: str | None, below: str = "") -> str:
    rows = [(f"s{k}", {"jpg": picture(k), "cls": n.encode(), "txt": b"a dog"}) for k, n in enumerate(numbers)]
    write_tar(folder / below / "0.tar", rows)
    if names is not None:
        (folder / "classnames.txt").write_text(names)
    return str(folder)


def test_one_cut_image_is_left_out_and_said(tmp_path: Path) -> None:
    rows = [(f"{k}", {"jpg": picture(k), "txt": b"a man"}) for k in range(5)]
    shard = write_tar(tmp_path / "0.tar", [("cut", {"jpg": CUT, "txt": b"a man"}), *rows])
    evaluators = {"retrieval": {"kind": "retrieval", "set": "held_out"}}
    suite = build_suite({}, evaluators, 10, 4, held_out=HeldOut([str(shard)]))
    assert suite.sets_read() == {
        "held_out": {"images": 5, "left_out": {UNDECODABLE: 1}, "examples": {UNDECODABLE: "cut"}}
    }
    assert suite.skipped[-1:] == ["set held_out: 1 of 6 samples are left out: 1 undecodable picture (such as cut)."]
    assert json.dumps(suite.sets_read())
    found = suite.sets["held_out"]
    assert len(found) == len(found.labels) == len(found.captions) == len(found.keys) == len(found.picture_keys()) == 5


@pytest.mark.parametrize(("bad", "max_bad", "refused"), [(10, 0.05, False), (11, 0.05, True), (11, 0.6, False)])
def test_too_many_are_refused(tmp_path: Path, bad: int, max_bad: float, refused: bool) -> None:
    rows = [(f"b{k}", {"jpg": CUT}) for k in range(bad)] + [(f"g{k}", {"jpg": picture(k)}) for k in range(10)]
    path = str(write_tar(tmp_path / "0.tar", rows))
    if refused:
        sentence = r"set s: 11 of 21 samples can't be used .* 11 undecodable picture \(such as b0\); .*data.max_bad"
        with pytest.raises(UserError, match=sentence) as error:
            load_set("s", {"path": path}, max_bad=max_bad)
        assert not isinstance(error.value, MissingSet)
    else:
        assert len(load_set("s", {"path": path}, max_bad=max_bad)) == 10


def test_a_folder_of_images_takes_all_kinds_and_leaves_out_the_broken(tmp_path: Path) -> None:
    from tests.test_images import encode, smooth

    kinds = {"a.JPG": "JPEG", "b.png": "PNG", "c.tiff": "TIFF", "d.TIF": "TIFF", "e.gif": "GIF", "f.webp": "WEBP"}
    for name, form in kinds.items():
        (tmp_path / name).write_bytes(encode(smooth(), form))
    (tmp_path / "z.jpeg").write_bytes(CUT)
    found = load_set("s", {"path": str(tmp_path)})
    assert sorted(found.keys) == sorted(kinds)
    assert found.bad == {UNDECODABLE: 1}
    assert found.examples == {UNDECODABLE: "z.jpeg"}


@pytest.mark.parametrize("below", ["", "test"])
def test_a_blank_line_keeps_the_numbers_of_later_classes(tmp_path: Path, below: str) -> None:
    numbers = [str(k % 5) for k in range(10)]
    found = load_set("s", {"path": classes_set(tmp_path, numbers, "tench\n\ngoldfish\nshark\n\n", below)})
    assert found.classnames == ["tench", "", "goldfish", "shark"]
    assert sorted(known["cls"] for known in found.labels) == [0, 0, 2, 2, 3, 3]
    assert found.bad == {NO_NAME: 4}
    assert any("no name for class 1" in sentence for sentence in found.sentences())
    assert any("4 of 10 samples are left out" in sentence for sentence in found.sentences())
    zero = ZeroShot("z", {"kind": "zeroshot"}, found)
    assert [prompts[0] for prompts in zero.prompts] == [f"a photo of a {w}" for w in ("tench", "goldfish", "shark")]
    np.testing.assert_array_equal(np.sort(zero.truth), [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("names", [None, "cat\ndog\n"])
def test_classes_that_are_no_numbers_are_counted(tmp_path: Path, names: str | None) -> None:
    path = classes_set(tmp_path, ["0", " 1\n", "dog", "", "-1", "1.5", "9" * 5000], names)
    found = load_set("s", {"path": path})
    assert [known["cls"] for known in found.labels] == [0, 1]
    assert found.bad == {NO_NUMBER: 4, NO_NAME: 1}


def test_without_names_all_classes_are_measured(tmp_path: Path) -> None:
    found = load_set("s", {"path": classes_set(tmp_path, [str(k % 4) for k in range(8)], None)})
    assert len(found) == 8
    assert found.bad == {}
    assert found.captions == [("a dog",)] * 8


def test_samples_without_image_or_with_bad_json_are_counted(tmp_path: Path) -> None:
    rows: list[tuple[str, dict[str, Any]]] = [(f"{k}", {"jpg": picture(k)}) for k in range(3)]
    rows += [("text", {"txt": b"a man"}), ("deep", {"jpg": picture(9), "json": b"[" * 100_000})]
    found = load_set("s", {"path": str(write_tar(tmp_path / "0.tar", rows))})
    assert found.bad == {"no picture": 1, "unreadable JSON": 1}
    assert sorted(found.keys) == ["0", "1", "2"]
