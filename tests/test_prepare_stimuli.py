"""Every source in miniature, in its authors' layout, prepared and read back by what evaluates it."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from balance.errors import UserError
from conf.app.cli import compose
from eval.evaluators.hypodescent import Hypodescent
from eval.evaluators.retrieval import Retrieval
from eval.evaluators.zeroshot import ZeroShot
from eval.sets import EvalSet, MissingSet, load_set
from scripts.prepare_stimuli import SOURCES, main
from scripts.stimuli_plan import write
from tests.tiny import picture


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def prepare(source: str, folder: Path, out: Path, **options: Any) -> Path:
    settings = [f"{key}={value}" for key, value in options.items()]
    main([f"source={source}", f"from={folder}", f"out={out}", "progress=false", *settings])
    (made,) = [path for path in out.iterdir() if ".partial" not in path.name]
    return made


def read(made: Path, pictures: str = "", table: str = "") -> EvalSet:
    spec = {"path": str(made / pictures)} | ({"labels": str(made / table)} if table else {})
    found = load_set("it", spec)
    assert not found.bad
    return found


def test_utkface(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["26_0_1_2017.jpg.chip.jpg", "3_1_4_2018.jpg.chip.jpg", "39_1_20170116174525125.jpg.chip.jpg"]
    for number, name in enumerate(names):
        put(tmp_path / "in" / name, picture(number))
    found = read(prepare("utkface", tmp_path / "in", tmp_path / "out"))
    assert found.labels == [
        {"age": 26, "gender": "male", "race": "Black"},
        {"age": 3, "gender": "female", "race": "Other"},
    ]
    assert found.encoded[0] == picture(0)
    said = capsys.readouterr().out
    assert "left out: 1 (name without age, gender and race)" in said
    assert "2 pictures are here; UTKFace has 23,708" in said


def test_fairface_and_a_missing_picture(tmp_path: Path) -> None:
    put(tmp_path / "in/fairface_label_val.csv", "file,age,gender,race,service_test\nval/1.jpg,3-9,Male,East Asian,1\n")
    with pytest.raises(UserError, match=r"val/1.jpg is not there: a picture of fairface_label_val.csv"):
        prepare("fairface", tmp_path / "in", tmp_path / "out")
    put(tmp_path / "in/val/1.jpg", picture(0))
    found = read(prepare("fairface", tmp_path / "in", tmp_path / "out"))
    assert found.labels == [{"age": "3-9", "gender": "Male", "race": "East Asian"}]


def test_miap_cuts_people_out(tmp_path: Path) -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 100:] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    put(tmp_path / "in/val/abc.png", buffer.getvalue())
    head = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf,IsDepictionOf,IsInsideOf,GenderPresentation,AgePresentation"
    rows = [
        "abc,/m/01g317,0.5,1,0,1,0,0,0,Predominantly Feminine,Young",
        "abc,/m/01g317,0,0.5,0,1,1,0,0,Unknown,Unknown",
        "abc,/m/01g317,0,0.1,0,1,0,0,0,Unknown,Unknown",
        "xyz,/m/01g317,0,1,0,1,0,0,0,Unknown,Unknown",
    ]
    put(tmp_path / "in/open_images_extended_miap_boxes_val.csv", "\n".join([head, *rows]) + "\n")
    made = prepare("miap", tmp_path / "in", tmp_path / "out")
    found = read(made)
    assert found.labels == [{"gender_presentation": "Predominantly Feminine", "age_presentation": "Young"}]
    with Image.open(io.BytesIO(found.encoded[0])) as cut:
        assert cut.size == (100, 100)
        assert np.asarray(cut).min() > 250
    assert len(json.loads((made / "prepared.json").read_text())["left_out"]) == 3


def test_omi_with_raw_ratings(tmp_path: Path) -> None:
    put(tmp_path / "in/attribute_means.csv", "stimulus,smart\n1,50\n2,60\n3,70\n")
    for number in (1, 2, 9):
        put(tmp_path / f"in/images/{number}.jpg", picture(number))
    with zipfile.ZipFile(tmp_path / "in/attribute_ratings.zip", "w") as archive:
        archive.writestr("attribute_ratings.csv", "stimulus,rating\n1,5\n")
    made = prepare("omi", tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in (made / "images").iterdir()) == ["1.jpg", "2.jpg"]
    assert (made / "attribute_ratings.csv").read_text() == "stimulus,rating\n1,5\n"
    about = json.loads((made / "prepared.json").read_text())
    assert about["left_out"] == {"rated, but no picture": 1, "picture without ratings": 1}
    assert any("1 attributes; the published one has 34" in note for note in about["notes"])


@pytest.mark.parametrize(("steps", "last"), [("paper", 1.0), ("released", 20 / 21)])
def test_morphs_are_read_by_hypodescent(tmp_path: Path, steps: str, last: float) -> None:
    for one in ("s1", "s2"):
        for step in range(21):
            put(tmp_path / f"in/black/male/{one}/{step}.jpg", picture(step))
    made = prepare("morphs", tmp_path / "in", tmp_path / "out", steps=steps)
    found = read(made, "morphs", "morphs.csv")
    config = {"kind": "hypodescent", "group": ["source_ethnicity", "gender"], "minority": {"black": "Black"}}
    (group,) = Hypodescent("h", config, found).groups
    assert group.rows.shape == (2, 21)
    assert group.shares[-1] == pytest.approx(1 - last, abs=1e-5)
    assert found.encoded[group.rows[0, 10]] == picture(10)  # by number, not by name: 10 comes after 9


def test_morphs_in_another_pattern_turned_round_and_with_a_step_missing(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        put(tmp_path / f"in/bf_wf-A-{step}.jpg", picture(step))
    made = prepare("morphs", tmp_path / "in", tmp_path / "out", pattern="{group}-{series}-{step}", reverse="true")
    with open(made / "morphs.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["target_weight"] for row in rows] == ["0.0", "0.5", "1.0"]
    assert (made / "morphs" / rows[0]["file"]).read_bytes() == picture(3)
    put(tmp_path / "in/bf_wf-B-1.jpg", picture(1))
    with pytest.raises(UserError, match=r"series bf_wf_B .* has 1 pictures; others have 3"):
        prepare("morphs", tmp_path / "in", tmp_path / "out2", pattern="{group}-{series}-{step}")
    with pytest.raises(UserError, match=r"must hold \{series\} and \{step\}"):
        prepare("morphs", tmp_path / "in", tmp_path / "out3", pattern="{series}")


def test_ieat_compares_counts_and_lays_transparency_on_white(tmp_path: Path) -> None:
    folder = tmp_path / "in/data/experiments"
    for number in range(10):
        put(folder / f"weight/thin/{number}.jpg", picture(number))
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(buffer, "PNG")
    put(folder / "weight/fat/clear.png", buffer.getvalue())
    made = prepare("ieat", tmp_path / "in", tmp_path / "out")
    assert made.name == "eat"
    found = read(made, "images")
    with Image.open(io.BytesIO(found.encoded[found.keys.index("weight/fat/clear.png")])) as clear:
        assert np.asarray(clear.convert("RGB")).min() == 255
    notes = json.loads((made / "prepared.json").read_text())["notes"]
    assert "weight/fat has 1 pictures; the published tests have 10." in notes
    assert not any(note.startswith("weight/thin") for note in notes)


def test_oasis(tmp_path: Path) -> None:
    put(tmp_path / "in/OASIS.csv", ",Theme,Category,Valence_mean\nI1,Acorns 1,Object,4.6\nI2,Alcohol 1,Object,4.5\n")
    put(tmp_path / "in/images/Acorns 1.jpg", picture(1))
    made = prepare("oasis", tmp_path / "in", tmp_path / "out")
    found = read(made, "images", "ratings.csv")
    assert found.keys == ["Acorns_1.jpg"]
    assert found.labels == [{"id": "I1", "Theme": "Acorns 1", "Category": "Object", "Valence_mean": "4.6"}]


def test_imagenet_by_folders_and_by_solutions(tmp_path: Path) -> None:
    wnids = [f"n{number:08d}" for number in range(1000)]
    for number, wnid in enumerate(wnids):
        put(tmp_path / f"in/{wnid}/ILSVRC2012_val_{1000 - number:08d}.JPEG", picture(number % 3))
    found = read(prepare("imagenet", tmp_path / "in", tmp_path / "out"))
    assert len(found.classnames) == 1000
    assert found.classnames[0] == "tench"
    assert sorted(zip(found.keys, (label["cls"] for label in found.labels), strict=True)) == [
        (key, 999 - number) for number, key in enumerate(sorted(found.keys))
    ]
    assert len(ZeroShot("z", {"kind": "zeroshot"}, found).prompts[0]) == 80
    flat = tmp_path / "flat"
    rows = [f"ILSVRC2012_val_{1000 - number:08d},{wnid} 1 2 3 4" for number, wnid in enumerate(wnids)]
    put(flat / "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *rows]) + "\n")
    for path in (tmp_path / "in").rglob("*.JPEG"):
        put(flat / path.name, path.read_bytes())
    again = read(prepare("imagenet", flat, tmp_path / "out2"))
    assert again.labels == found.labels
    (tmp_path / "in" / wnids[5]).rename(tmp_path / "away")
    with pytest.raises(UserError, match="pictures of 999 classes; ImageNet has 1000"):
        prepare("imagenet", tmp_path / "in", tmp_path / "out3")


def everything(folder: Path) -> None:
    """Each source of the full suite in miniature, in a folder of its name."""
    put(folder / "utkface/26_0_1_2017.jpg", picture(0))
    put(folder / "ieat/data/experiments/weight/thin/1.jpg", picture(0))
    put(folder / "oasis/OASIS.csv", ",Theme,Category,Valence_mean\nI1,Acorns 1,Object,4.6\n")
    put(folder / "oasis/images/Acorns 1.jpg", picture(1))
    put(folder / "omi/attribute_means.csv", "stimulus,smart\n1,50\n")
    put(folder / "omi/images/1.jpg", picture(1))
    for step in range(21):
        put(folder / f"morphs/black/male/one/{step}.jpg", picture(step))
    for number in range(1000):
        put(folder / f"imagenet/n{number:08d}/ILSVRC2012_val_{number:08d}.JPEG", picture(number % 3))
    tokens(folder / "flickr8k")
    for split in ("test", "dev"):
        put(folder / f"flickr8k/Flickr_8k.{split}Images.txt", "0007.jpg\n")
    put(folder / "flickr8k/0007.jpg", picture(7))


@pytest.mark.parametrize(("suite", "elsewhere"), [("full", {"cifar10"}), ("wds", {"cifar10", "held_out"})])
def test_the_suites_find_what_was_prepared_without_a_word_on_names(
    tmp_path: Path, suite: str, elsewhere: set[str]
) -> None:
    everything(tmp_path / "in")
    (tmp_path / "out").mkdir()
    wanted = compose([f"eval={suite}", f"eval.root={tmp_path / 'out'}", "data.train=x"]).eval
    needed = {"full": ("utkface", "ieat", "oasis", "omi", "morphs", "imagenet", "flickr8k")}.get(suite)
    for source in needed or ("utkface", "imagenet"):
        main([f"source={source}", f"from={tmp_path / 'in' / source}", f"out={tmp_path / 'out'}", "progress=false"])
    for name, spec in wanted.sets.items():
        if name not in elsewhere:
            assert len(load_set(name, spec)), name
    for evaluator in wanted.evaluators.values():
        assert Path(evaluator.get("ratings", tmp_path)).exists()
    if suite == "full":
        prepare("flickr8k", tmp_path / "in/flickr8k", tmp_path / "dev", split="dev")
        root = compose([f"eval={suite}", f"eval.root={tmp_path / 'dev'}", "data.train=x"]).eval
        assert len(load_set("flickr8k", root.sets["flickr8k"]))


def test_a_set_has_one_of_the_names_in_braces(tmp_path: Path) -> None:
    spec = {"path": str(tmp_path / "{a,b}/faces"), "labels": str(tmp_path / "{a,b}/faces.csv")}
    with pytest.raises(MissingSet, match=r"nothing matches '.*/a/faces' \(of the pattern"):
        load_set("it", spec)
    for name in ("a", "b"):
        put(tmp_path / f"{name}/faces.csv", f"file,who\n1.jpg,{name}\n")
    put(tmp_path / "b/faces/1.jpg", picture(1))
    assert load_set("it", spec).labels == [{"who": "b"}]  # by the table beside the pictures
    put(tmp_path / "a/faces/1.jpg", picture(1))
    with pytest.raises(UserError, match=r"a/faces and .*b/faces are both there; say which by eval\.sets\.it\.path="):
        load_set("it", spec)


def coco(folder: Path) -> None:
    notes = [{"id": 2, "image_id": 7, "caption": "b"}, {"id": 1, "image_id": 7, "caption": "a"}]
    images = [{"id": 7, "file_name": "0007.jpg"}, {"id": 8, "file_name": "0008.jpg"}, {"id": 9, "file_name": "9.jpg"}]
    notes += [{"id": 3, "image_id": 8, "caption": "c"}, {"id": 4, "image_id": 9, "caption": "d"}]
    put(folder / "annotations/captions_val2017.json", json.dumps({"images": images, "annotations": notes}))


def karpathy(folder: Path) -> None:
    rows = [
        ("0007.jpg", ["a", "b"], "test"),
        ("0008.jpg", ["c"], "test"),
        ("9.jpg", ["d"], "test"),
        ("1.jpg", ["x"], "val"),
    ]
    images = [{"filename": n, "split": s, "sentences": [{"raw": t} for t in texts]} for n, texts, s in rows]
    put(folder / "dataset_flickr30k.json", json.dumps({"images": images}))


def tokens(folder: Path) -> None:
    put(folder / "Flickr8k.token.txt", "0007.jpg#0\ta\n0007.jpg#1\tb\n0008.jpg#0\tc\n9.jpg#0\td\n1.jpg#0\tx\n")
    put(folder / "Flickr_8k.testImages.txt", "0007.jpg\n0008.jpg\n9.jpg\n")


@pytest.mark.parametrize(("source", "lay"), [("coco", coco), ("flickr30k", karpathy), ("flickr8k", tokens)])
def test_captions(tmp_path: Path, source: str, lay: Any) -> None:
    lay(tmp_path / "in")
    for number in (7, 8):
        put(tmp_path / f"in/pictures/{number:04d}.jpg", picture(number))
    made = prepare(source, tmp_path / "in", tmp_path / "out")
    found = read(made)
    assert found.captions == [("a", "b"), ("c",)]
    assert len(Retrieval("r", {"kind": "retrieval"}, found).texts) == 3
    assert (made / "test-00000.tar").is_file()
    about = json.loads((made / "prepared.json").read_text())
    assert about["left_out"] == {"picture not there": 1}
    assert "3 captions" in about["notes"][0]


def test_a_stopped_command_goes_on_and_a_finished_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scripts.stimuli_plan.SHARD_ITEMS", 2)
    for number in range(6):
        put(tmp_path / f"in/{20 + number}_0_0_1.jpg", picture(number))
    folder, out = tmp_path / "in", tmp_path / "out"
    broken = folder / "24_0_0_1.jpg"
    broken.write_bytes(b"x" * len(picture(4)))
    with pytest.raises(UserError, match=r"24_0_0_1\.jpg can't be read as a picture"):
        prepare("utkface", folder, out)
    (part,) = out.iterdir()
    assert ".partial-" in part.name
    assert sorted(path.name for path in part.iterdir()) == ["test-00000.tar", "test-00001.tar"]
    first = (part / "test-00000.tar").stat().st_mtime_ns
    broken.write_bytes(picture(4))
    made = prepare("utkface", folder, out)
    assert (made / "test-00000.tar").stat().st_mtime_ns == first
    assert len(read(made)) == 6
    assert [path.name for path in out.iterdir()] == ["utkface"]
    prepare("utkface", folder, out)
    assert "6 pictures, as they were" in capsys.readouterr().out
    put(folder / "50_0_0_1.jpg", picture(9))
    with pytest.raises(UserError, match="is there already with other content"):
        prepare("utkface", folder, out)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["source=utk", "from=.", "out=o"], "source=utk is not one of utkface"),
        (["source=utkface", "out=o"], "from must be given"),
        (["source=utkface", "from=nowhere", "out=o"], "is no folder"),
        (["source=utkface", "from=.", "out=o", "spilt=val"], "'spilt=val' is not a setting"),
        (["source=morphs", "from=.", "out=o", "steps=code"], "is not one of paper, released"),
    ],
)
def test_wrong_settings_are_told(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        main(arguments)


def test_what_lacks_is_told(tmp_path: Path) -> None:
    for source in SOURCES:
        with pytest.raises(UserError):
            write(SOURCES[source](tmp_path, {}), tmp_path / "out", shown=False)


def test_the_real_folders_are_taken(shared_data: Path, tmp_path: Path) -> None:
    made = prepare("ieat", shared_data / "eat", tmp_path / "a")
    notes = json.loads((made / "prepared.json").read_text())["notes"]
    assert all(note.startswith("gender/career") for note in notes)
    made = prepare("oasis", shared_data / "oasis", tmp_path / "b")
    assert len(read(made, "images", "ratings.csv")) == 50
    made = prepare("omi", shared_data / "omi", tmp_path / "c")
    assert len(read(made, "images")) == 704
