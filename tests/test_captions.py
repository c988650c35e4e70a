import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balance.errors import UserError
from balance.labels.captions import CaptionSource
from balance.labels.tokens import SEPARATOR, tokenize
from balance.labels.words import WORDS_FOLDER, load_word_list, make_word_list, plural
from balance.stream.samples import Sample
from tests import caption_cases, web_cases

LABELS = Path(__file__).parent / "data" / "flickr8k_gender.csv"


def cases(block: str) -> list[tuple[str, str]]:
    lines = [line for line in block.splitlines() if line.strip()]
    return [(text.strip(), expected.strip()) for text, expected in (line.rsplit("|", 1) for line in lines)]


def texts(source: CaptionSource, captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return source.annotate_texts(captions, np.arange(len(captions)), len(captions))


def source(**config: object) -> CaptionSource:
    return CaptionSource({"kind": "captions", **config})


GENDER = source(attributes=["gender"], one_hot=True, both="both")
AGE = source(attributes=["age_group"], both="both")
RACE = source(attributes=["race"], both="both")
OCCUPATIONS = source(concepts=["occupations"])
OBJECTS = source(concepts=["objects"])
EVERYTHING = source(
    attributes=["gender", "age_group", "race"], concepts=["occupations", "objects", "sports", "proxies"]
)


def gender(caption: str) -> str:
    row = texts(GENDER, [caption])[0][0]
    return "n" if np.isnan(row).all() else {(1, 0): "w", (0, 1): "m", (1, 1): "b"}[tuple(row.astype(int))]


@pytest.mark.parametrize(("caption", "expected"), cases(caption_cases.GENDER))
def test_gender(caption: str, expected: str) -> None:
    assert gender(caption) == expected


@pytest.mark.parametrize(
    ("labels", "caption", "expected"),
    [(AGE, *case) for case in cases(caption_cases.AGE)] + [(RACE, *case) for case in cases(caption_cases.RACE)],
)
def test_one_hot(labels: CaptionSource, caption: str, expected: str) -> None:
    row = texts(labels, [caption])[0][0]
    found = [name.partition("=")[2] for name, value in zip(labels.s_names, row, strict=True) if value == 1]
    if expected == "-":
        assert np.isnan(row).all()
    else:
        assert found == expected.split(",")


@pytest.mark.parametrize(
    ("labels", "caption", "expected"),
    [(OCCUPATIONS, *case) for case in cases(caption_cases.OCCUPATIONS)]
    + [(OBJECTS, *case) for case in cases(caption_cases.THINGS)],
)
def test_concepts(labels: CaptionSource, caption: str, expected: str) -> None:
    row = texts(labels, [caption])[1][0]
    assert sorted(np.array(labels.y_names)[row == 1]) == [name for name in expected.split(",") if name != "-"]


WEB = {
    "gender": (GENDER, web_cases.GENDER),
    "age group": (AGE, web_cases.AGE),
    "occupations": (OCCUPATIONS, web_cases.OCCUPATIONS),
}


@pytest.mark.parametrize("block", WEB)
def test_web_sentences(block: str) -> None:
    labels, sentences = WEB[block]
    rows = cases(sentences)
    s, y = texts(labels, [caption for caption, _ in rows])
    found = named(labels, s, y)
    if block == "gender":
        found = [{"": "n", "woman": "w", "man": "m", "woman,man": "b"}[names] for names in found]
    wrong = [
        (caption, names)
        for (caption, expected), names in zip(rows, found, strict=True)
        if names != (expected.replace("-", ""))
    ]
    assert not wrong


def named(labels: CaptionSource, s: np.ndarray, y: np.ndarray) -> list[str]:
    """The values or concepts that each caption has, with commas."""
    names = [name.partition("=")[2] for name in labels.s_names] or sorted(labels.y_names)
    on = (s == 1) if labels.s_names else y[:, np.argsort(labels.y_names)] == 1
    return [",".join(np.array(names)[row]) for row in on]


CONTEXTS = {
    "attribute": "a",
    "sets": {"who": ["man", "men"]},
    "values": {"person": {"words": ["man"], "loose": ["young {who}"]}, "other": ["cat"]},
    "between": ["tall", "happy"],
    "cues": {
        "thing": {"words": ["shoe"], "near": 2},
        "sold": {"fixed": ["sale"]},
        "acts": {"verbs": ["smile"]},
        "one": {"fixed": ["a"], "before": 1},
        "name": {"capitalised": True, "after": 1},
    },
    "rules": [
        {"terms": ["{who}"], "with": ["thing", "sold"], "unless": ["one", "acts"]},
        {"terms": ["cat"], "with": ["name"], "written": "capitalised"},
        {"terms": "all", "except": ["cat"], "with": ["sold"], "unless": ["one", "acts"]},
    ],
}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("men shoes", ""), ("shoes men", ""), ("men red shoes", ""), ("men big red shoes", "person"),
        ("a man shoes", "person"), ("a big man shoes", ""), ("man smiling, shoes", "person"), ("man", "person"),
        ("man at the very end of a long text on sale", ""), ("cat on sale", "other"), ("young man sale", ""),
        ("young tall happy man", "person"), ("young short man", "person"), ("young happy cat", "other"),
        ("Cat Smith", ""), ("cat Smith", "other"), ("Cat sleeps", "other"), ("CAT SMITH", ""),
    ],
)  # fmt: skip
def test_rules_of_a_list(caption: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(json.dumps(CONTEXTS), encoding="utf-8")
    labels = source(attributes=[str(path)], both="both", one_hot=True)
    # The neighbours in the batch hold all cues: none may reach over the end of a caption.
    around = ["shoes sale a smiling Shoe", caption, "Shoe sale smiling a"]
    s, y = texts(labels, around)
    assert named(labels, s, y)[1] == expected


def test_loose_phrases_hide_what_they_hold() -> None:
    labels = source(attributes=["age_group"], one_hot=True, both="both")
    s, y = texts(labels, ["a young, happy and pregnant woman", "a young dog and a woman"])
    assert named(labels, s, y) == ["young", "adult"]


def test_three_hundred_sentences_of_the_web_half_of_them_right() -> None:
    rows = [row for _, sentences in WEB.values() for row in cases(sentences)]
    silent = sum(expected in ("n", "-") for _, expected in rows)
    assert len({caption for caption, _ in rows}) >= 300
    assert min(silent, len(rows) - silent) >= 100


def test_hundreds_of_cases_and_occupations() -> None:
    blocks = (
        caption_cases.GENDER,
        caption_cases.AGE,
        caption_cases.RACE,
        caption_cases.OCCUPATIONS,
        caption_cases.THINGS,
    )
    assert sum(len(cases(block)) for block in blocks) >= 300
    assert len(OCCUPATIONS.y_names) >= 100


def test_very_long_line_and_empty_captions() -> None:
    s, _ = texts(GENDER, ["dog " * 200_000 + "woman", "", "   ", "\n\t"])
    assert s[0].tolist() == [1, 0]
    assert np.isnan(s[1:]).all()


def test_no_captions_at_all() -> None:
    s, y = EVERYTHING.annotate([Sample("k", b"", ()), Sample("l", b"", ())])
    assert np.isnan(s).all()
    assert not y.any()
    s, y = EVERYTHING.annotate([])
    assert s.shape == (0, len(EVERYTHING.s_names))
    assert y.shape == (0, len(EVERYTHING.y_names))


def test_other_languages_by_adding_a_file() -> None:
    german = source(attributes=["gender", "gender_de"])
    assert german.s_names == ["woman"]
    captions = [
        "Eine Frau liest",
        "Ein Mann liest",
        "keine Frau",
        "eine junge Frau",
        "a woman",
        "der Junge",
        "Frau Holle",
    ]
    expected = [1, 0, np.nan, 1, 1, 0, np.nan]
    np.testing.assert_array_equal(texts(german, captions)[0][:, 0], expected)


@pytest.mark.parametrize(
    ("language", "words", "caption"),
    [
        ("zh", {"woman": ["女人", "女孩"], "man": ["男人", "男孩"]}, "一个女人在街上走"),
        ("ja", {"woman": ["女性"], "man": ["男性"]}, "公園で走る女性。"),
        ("th", {"woman": ["ผู้หญิง"], "man": ["ผู้ชาย"]}, "ผู้หญิงกำลังวิ่ง"),
        ("hi", {"woman": ["महिला"], "man": ["आदमी"]}, "एक महिला पढ़ रही है"),
        ("ar", {"woman": ["امرأة"], "man": ["رجل"]}, "امرأة تقرأ كتابا"),
        ("ru", {"woman": ["женщина"], "man": ["мужчина"]}, "ЖЕНЩИНА читает"),
        ("tr", {"woman": ["kadın"], "man": ["adam"]}, "Kadın kitap okuyor"),
        ("el", {"woman": ["γυναίκα"], "man": ["άντρας"]}, "Γυναίκα διαβάζει"),
        ("ko", {"woman": ["여자"], "man": ["남자"]}, "여자 한 명"),
        ("fr", {"woman": ["fée"], "man": ["père"]}, "une fe\u0301e"),
    ],
)
def test_several_scripts(language: str, words: dict[str, list[str]], caption: str, tmp_path: Path) -> None:
    path = tmp_path / f"gender_{language}.yaml"
    spec = {"attribute": "gender", "positive": "woman", "values": {k: {"fixed": v} for k, v in words.items()}}
    path.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    assert texts(source(attributes=[str(path)]), [caption])[0].tolist() == [[1.0]]


SEVERAL = [
    (("a woman", "a lady", "a man"), {"vote": 1.0, "probability": 2 / 3}),
    (("a woman", "a man"), {"vote": np.nan, "probability": 0.5}),
    (("a woman", "a dog", "snow"), {"vote": 1.0, "probability": 1.0}),
    (("a dog", "snow"), {"vote": np.nan, "probability": np.nan}),
    (("a man and a woman", "a man"), {"vote": np.nan, "probability": 0.0}),
    (("a man and a woman",), {"vote": np.nan, "probability": np.nan}),
    (("a man", "men", "a woman and a man"), {"vote": 0.0, "probability": 0.0}),
]


@pytest.mark.parametrize(("captions", "expected"), SEVERAL)
@pytest.mark.parametrize("rule", ["vote", "probability"])
def test_several_captions(captions: tuple[str, ...], expected: dict[str, float], rule: str) -> None:
    labels = source(attributes=["gender"], captions=rule)
    s, _ = labels.annotate([Sample("k", b"", captions)])
    np.testing.assert_allclose(s, [[expected[rule]]], rtol=1e-6)


def test_both_rules() -> None:
    three_to_one = [Sample("k", b"", ("a man, a boy, a guy and a woman",))]
    assert np.isnan(source(attributes=["gender"]).annotate(three_to_one)[0]).all()
    assert source(attributes=["gender"], both="probability").annotate(three_to_one)[0].tolist() == [[0.25]]
    both = source(attributes=["gender"], both="both", one_hot=True)
    assert both.s_names == ["gender=woman", "gender=man"]
    assert both.annotate(three_to_one)[0].tolist() == [[1, 1]]


def test_min_captions() -> None:
    labels = source(attributes=["gender"], concepts=["occupations"], min_captions=2)
    once, twice = ("a nurse and a nurse, she", "snow", "sky"), ("a nurse", "a nurse, she", "she")
    s, y = labels.annotate([Sample("a", b"", once), Sample("b", b"", twice)])
    np.testing.assert_array_equal(s[:, 0], [np.nan, 1])
    assert y[:, labels.y_names.index("nurse")].tolist() == [0, 1]


def test_proxies_are_marked() -> None:
    labels = source(concepts=["occupations", "proxies"], attributes=["gender"])
    assert "dress" in labels.proxies
    assert "nurse" not in labels.proxies


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=8))
def test_batch_equals_one_by_one(captions: list[str]) -> None:
    captions = [*captions, "a woman" + SEPARATOR + "a man", "two nurses"]
    s, y = texts(EVERYTHING, captions)
    for i, caption in enumerate(captions):
        one_s, one_y = texts(EVERYTHING, [caption])
        np.testing.assert_array_equal(s[i], one_s[0])
        np.testing.assert_array_equal(y[i], one_y[0])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_tokens_hold_no_space_and_fold_once(text: str) -> None:
    tokens = tokenize(text)
    assert all(token and not any(c.isspace() for c in token) for token in tokens)
    assert tokenize("woman") == ["woman"]


def test_all_lists_load_and_their_own_words_find_them() -> None:
    for path in WORDS_FOLDER.glob("*.yaml"):
        words = load_word_list(path.stem)
        key = "attributes" if words.is_attribute else "concepts"
        config = {key: [path.stem], "one_hot": True, "both": "both"} if words.is_attribute else {key: [path.stem]}
        labels = source(**config)
        # A term that an exclusion or another value's longer term always hides would be dead weight.
        terms = [term for term in words.terms if not any(t in words.negators for t in term.tokens)]
        s, y = texts(labels, [" ".join(term.tokens) for term in terms])
        found, names = (s, labels.s_names) if words.is_attribute else (y, labels.y_names)
        dead = []
        for term, row in zip(terms, found, strict=True):
            name = f"{words.title}={term.value}" if words.is_attribute else term.value
            if row[names.index(name)] != 1 and not (term.weak and term.tokens in words.unless):
                dead.append(" ".join(term.tokens))
        assert not dead, path.stem


@pytest.mark.parametrize(
    ("one", "many"),
    [("woman", "women"), ("lady", "ladies"), ("boy", "boys"), ("wife", "wives"), ("bus", "buses"), ("human", "humans"),
     ("church", "churches"), ("police officer", "police officers"), ("child", "children"), ("waitress", "waitresses")],
)  # fmt: skip
def test_plural(one: str, many: str) -> None:
    assert plural(one) == many


GOOD = {"attribute": "a", "values": {"x": ["one"], "y": ["two"]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"valuse": {}}, "unknown key 'valuse'"),
        ({"values": {}}, "needs 'values:'"),
        ({"values": {"x": [False], "y": ["two"]}}, "False is no text"),
        ({"values": {"x": ["..."], "y": ["two"]}}, "holds no letter"),
        ({"values": {"x": ["{no}"], "y": ["two"]}}, "names the set 'no'"),
        ({"values": {"x": {"word": ["one"]}, "y": ["two"]}}, "needs a list of words"),
        ({"positive": "z"}, "'positive' must be one of exactly two"),
        ({"concepts": "c"}, "either 'attribute:' or 'concepts:'"),
        ({"uses": ["shop"]}, "the cues 'shop', which are not there; built in: web"),
        ({"cues": {"c": {"word": ["x"]}}}, "the cue 'c' needs a mapping"),
        ({"cues": {"c": {"words": ["two words"]}}}, "holds 'two words', which is no single word"),
        ({"cues": {"c": {"fixed": [True]}}}, "holds True"),
        ({"cues": {"c": {}}}, "has no words"),
        ({"cues": {"c": {"fixed": ["x"], "near": 40}}}, "of 1 to 12 words"),
        ({"cues": {"c": {"fixed": ["x"], "near": 2, "after": 1}}}, "of 1 to 12 words"),
        ({"cues": {"c": {"capitalised": True}}}, "needs 'before', 'after' or 'near'"),
        ({"rules": [{"terms": ["one"]}]}, "a rule needs 'terms' and 'with'"),
        ({"rules": [{"terms": ["one"], "with": ["x"]}]}, "names the cue 'x'; declared are: none"),
        ({"uses": ["web"], "rules": [{"terms": ["three"], "with": ["for"]}]}, "names 'three', which is no term"),
        (
            {"uses": ["web"], "rules": [{"terms": "all", "with": ["for"], "written": "upper"}]},
            "can only be 'capitalised'",
        ),
    ],
)
def test_bad_lists(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_word_list({**GOOD, **change}, "list.yaml")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"attributes": ["gendre"]}, "no word list 'gendre'.*gender"),
        ({"attributes": ["occupations"]}, "is a concept list"),
        ({"concepts": ["gender"]}, "is an attribute list"),
        ({}, "needs word lists"),
        ({"attributes": ["gender"], "both": "neither"}, "both='neither'"),
        ({"attributes": ["gender"], "both": "both"}, "one_hot"),
        ({"attributes": ["gender"], "wrong": 1}, "no key 'wrong'"),
    ],
)
def test_bad_sources(config: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(**config)


def test_gender_on_200_captions_read_by_a_person(shared_data: Path) -> None:
    with tarfile.open(shared_data / "flickr8k" / "dev-00000.tar") as tar:
        members = {m.name[:-5]: m for m in tar.getmembers() if m.name.endswith(".json")}
        with LABELS.open() as file:
            rows = list(csv.DictReader(file))
        captions = []
        for row in rows:
            stream = tar.extractfile(members[row["key"]])
            assert stream is not None
            captions.append(json.load(stream)["captions"][int(row["caption"])])
    names = {"w": "woman", "m": "man", "b": "both", "n": "none"}
    agreed = [names[gender(caption)] == row["label"] for caption, row in zip(captions, rows, strict=True)]
    assert len(agreed) == 200
    assert np.mean(agreed) >= 0.99
