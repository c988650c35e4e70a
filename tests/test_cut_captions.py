"""Captions longer than the model's context: how many there are, and whose labels stand behind the cut."""

from pathlib import Path

from conf.app.cut_captions import find_cut_captions
from tests.small_model import build
from tests.tiny import sample, write_tar

ATTRIBUTES = {"sources": [{"kind": "captions", "attributes": ["gender"], "concepts": ["occupations"]}]}
FAR = "a photo of a street with many shops and cars and trees and signs under a clear blue sky"


def test_labels_behind_the_cut_are_counted(tmp_path: Path) -> None:
    captions = ["a nurse", f"a woman in {FAR}", f"{FAR} with a woman", f"{FAR} and a dog", f"a man in {FAR}, a chef"]
    shard = write_tar(tmp_path / "0.tar", [(str(k), sample(k, caption=text)) for k, text in enumerate(captions)])
    bundle = build()
    found = find_cut_captions([str(shard)], bundle, ATTRIBUTES)
    assert (found.looked_at, found.cut, found.behind) == (5, 4, 2)
    assert found.example == captions[2]
    assert "4 of the first 5 captions, and 2 are labelled by words that the model never sees" in found.sentence()
    assert find_cut_captions([str(shard)], bundle, None).behind == 0
    short = write_tar(tmp_path / "1.tar", [("0", sample(0, caption="a nurse"))])
    assert find_cut_captions([str(short)], bundle, ATTRIBUTES).sentence() == ""
