"""Captions of a sample: wherever they lie, in whatever form, the same list for all who read them."""

import codecs
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balance.labels.captions import CaptionSource
from balance.stream.captions import clean_caption
from balance.stream.samples import BadSample, parse_json, parse_sample, read_shard
from eval.sets import load_set
from tests.tiny import picture, write_tar

BOM = "\ufeff"


def captions(txt: bytes | None = None, **meta: Any) -> tuple[str, ...]:
    raw = {"__key__": "k", "jpg": b"x", "json": json.dumps(meta).encode()}
    return parse_sample(raw if txt is None else {**raw, "txt": txt}, need_caption=False).captions


@pytest.mark.parametrize("hiding", [[], [""], [None, " "], "", "  ", 3, None, {"a": "b"}, [["a nurse"]], BOM, "&nbsp;"])
@pytest.mark.parametrize("field", ["captions", "caption", "text"])
def test_what_is_no_caption_hides_none(hiding: Any, field: str) -> None:
    assert captions(b"a nurse", **{field: hiding}) == ("a nurse",)
    for other in {"captions", "caption", "text"} - {field}:
        assert captions(b" \r\n", **{field: hiding, other: "a nurse"}) == ("a nurse",)


@pytest.mark.parametrize(
    "txt", [b"", b" \n\t", BOM.encode(), codecs.BOM_UTF16_LE, b"\0\0", b"&#32;", b"\xff\xfd", None]
)
def test_a_text_that_is_no_caption_hides_none(txt: bytes | None) -> None:
    assert captions(txt, caption="a nurse") == captions(txt, text=["a nurse"]) == ("a nurse",)


@pytest.mark.parametrize("field", ["captions", "caption", "text"])
def test_strings_and_lists_are_taken_in_each_field(field: str) -> None:
    assert captions(**{field: " a nurse "}) == ("a nurse",)
    assert captions(**{field: ["a nurse", 3, None, ["no"], {"no": 1}, "", "a woman"]}) == ("a nurse", "a woman")


def test_the_list_comes_before_the_text_and_the_text_before_the_string() -> None:
    assert captions(b"b", captions=["a"], caption="c", text="d") == ("a",)
    assert captions(b"b", caption="c", text="d") == ("b",)
    assert captions(caption="c", text="d") == ("c",)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("women&#39;s shoes", "women's shoes"),
        ("women&amp;#39;s shoes", "women's shoes"),
        ("AT&T & co", "AT&T & co"),
        (BOM + "a man", "a man"),
        ("a man\nand\ta\0dog\r\n", "a man and a dog"),
        ("a\u2028man", "a man"),
        ("a woman \U0001f469\u200d\U0001f52c", "a woman \U0001f469\u200d\U0001f52c"),
        ("half \ud83d of a pair", "half ? of a pair"),
        ("two  blanks stay", "two  blanks stay"),
    ],
)
def test_captions_are_plain_text(written: str, meant: str) -> None:
    assert clean_caption(written) == meant
    assert captions(caption=written) == (meant,)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_with_and_without_a_mark(encoding: str) -> None:
    assert captions("Grüße 👩".encode(encoding)) == ("Grüße 👩",)


def test_entities_and_their_characters_get_one_label() -> None:
    source = CaptionSource({"kind": "captions", "attributes": ["gender"]})
    raws = [{"__key__": "k", "jpg": b"x", "txt": text} for text in (b"women&#39;s shoes", b"women's shoes")]
    first, second = source.annotate([parse_sample(raw) for raw in raws])[0]
    np.testing.assert_array_equal(first, second)
    assert parse_sample(raws[0]).captions == parse_sample(raws[1]).captions == ("women's shoes",)


@pytest.mark.parametrize("said", ["retrieval\n", None])
@pytest.mark.parametrize("below", ["", "test"])
def test_lines_are_captions_in_the_benchmark_layout_alone(tmp_path: Path, said: str | None, below: str) -> None:
    lines = "\n".join(f"view {k} of a dog" for k in range(5)).encode() + b"\n\n"
    members = [(f"{n}", {"jpg": picture(n), "txt": lines}) for n in range(3)]
    shard = write_tar(tmp_path / below / "0.tar", members)
    if said is not None:
        (tmp_path / "dataset_type.txt").write_text(said)
    found = load_set("s", {"path": str(tmp_path)})
    count = 5 if said else 1
    assert [len(texts) for texts in found.captions] == [count] * 3
    assert found.captions[0][0] == ("view 0 of a dog" if said else " ".join(f"view {k} of a dog" for k in range(5)))
    assert load_set("s", {"path": [str(shard)]}).captions == found.captions  # as `data.eval` names shards
    assert [parse_sample(raw).captions for raw in read_shard(str(shard))] == found.captions  # as training reads them


def deep(depth: int, kind: str = "[]") -> bytes:
    opening = kind[0] if kind == "[]" else '{"a":'
    return f'{{"caption": "a man", "x": {opening * depth}1{kind[1] * depth}}}'.encode()


@pytest.mark.parametrize(
    "content",
    [
        deep(100_000),
        deep(100_000, "{}"),
        b'{"caption": "a man", "caption": "a woman"}',
        b'{"caption": "a man", "n": {"a": 1, "a": 2}}',
        b'{"n": ' + b"9" * 301 + b"}",
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"caption": "caf\xe9"}',
        b"[]",
        b"3",
        b"",
        b"{} {}",
    ],
)
def test_json_that_cannot_be_read_is_one_bad_sample(content: bytes) -> None:
    with pytest.raises(BadSample, match="unreadable JSON"):
        parse_sample({"__key__": "k", "jpg": b"x", "txt": b"a man", "json": content})


def test_json_as_it_is_met() -> None:
    assert parse_json(b'\xef\xbb\xbf{"caption": "a man"}') == {"caption": "a man"}
    assert parse_json('{"a": "ü"}'.encode("utf-16")) == {"a": "ü"}
    assert parse_json(b'{"similarity": NaN, "x": [Infinity, -Infinity], "id": 123456789012345678901}') == {
        "similarity": None,
        "x": [None, None],
        "id": 123456789012345678901,
    }
    assert parse_json(deep(50))["caption"] == "a man"
