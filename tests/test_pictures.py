import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.special import expit

from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.attributes import build_annotator, read_attributes
from balance.labels.pictures import PROMPTS_FOLDER, PictureSource, fit_calibration, load_prompts
from balance.stream.samples import Sample
from tests.shard_tools import picture, write_tar

GENDER = {
    "attribute": "gender",
    "positive": "woman",
    "values": {"woman": ["w"], "man": ["m"]},
    "none": ["n"],
    "scale": 10.0,
}


DIRECTIONS = {"w": [1, 0, 0], "m": [0, 1, 0], "n": [0, 0, 1], "v": [0.8, 0.6, 0], "h": [0.71, 0.70, 0.05]}


class Toy:
    """Embeds a text or a picture as a direction named by its first byte."""

    fingerprint = "toy"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def _embed(self, names: Sequence[str]) -> np.ndarray:
        rows = np.array([DIRECTIONS.get(name, [np.nan] * 3) for name in names], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def encode_images(self, images: Sequence[bytes]) -> np.ndarray:
        self.batches.append(len(images))
        return self._embed([image.decode() for image in images])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._embed(list(texts))


def source(tmp_path: Path, spec: dict[str, Any], **config: Any) -> PictureSource:
    path = tmp_path / "prompts.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return PictureSource({"kind": "pictures", "prompts": str(path), **config}, Toy())


def samples(names: str) -> list[Sample]:
    return [Sample(f"{i}", name.encode(), ()) for i, name in enumerate(names)]


def test_hard_labels_and_unknowns(tmp_path: Path) -> None:
    s, y = source(tmp_path, GENDER).annotate(samples("wmnvhx"))
    # n: nobody to be seen; h: too near to call; x: can't be decoded
    np.testing.assert_array_equal(s[:, 0], [1, 0, np.nan, 1, np.nan, np.nan])
    assert y.shape == (6, 0)


def test_soft_labels_are_the_softmax(tmp_path: Path) -> None:
    s, _ = source(tmp_path, GENDER, soft=True).annotate(samples("wvm"))
    np.testing.assert_allclose(s[:, 0], expit([10, 10 * (0.8 - 0.6), -10]), rtol=1e-5)


def test_shift_and_scale_calibrate(tmp_path: Path) -> None:
    s, _ = source(tmp_path, {**GENDER, "scale": 3.0, "shift": -0.7}, soft=True).annotate(samples("v"))
    np.testing.assert_allclose(s[0, 0], expit(3.0 * (0.8 - 0.6) - 0.7), rtol=1e-5)


def test_one_hot_values(tmp_path: Path) -> None:
    spec = {**GENDER, "threshold": 0.7}
    del spec["positive"]
    labels = source(tmp_path, spec)
    assert labels.s_names == ["gender=woman", "gender=man"]
    np.testing.assert_array_equal(labels.annotate(samples("wm"))[0], [[1, 0], [0, 1]])


def test_concepts_against_none(tmp_path: Path) -> None:
    spec = {"concepts": "c", "values": {"a": ["w"], "b": ["m"]}, "none": ["n"], "scale": 10.0, "proxy": True}
    labels = source(tmp_path, spec, prefix="seen ")
    assert labels.y_names == labels.proxies == ["seen a", "seen b"]
    assert labels.annotate(samples("wnvx"))[1].tolist() == [[1, 0], [0, 0], [1, 1], [0, 0]]


def test_batches(tmp_path: Path) -> None:
    labels = source(tmp_path, GENDER, batch_size=2)
    labels.annotate(samples("wmwmw"))
    assert labels._encoder.batches == [2, 2, 1]  # type: ignore[attr-defined]
    assert labels.annotate([])[0].shape == (0, 1)


def test_calibration_recovers_the_truth() -> None:
    rng = np.random.default_rng(0)
    difference = rng.normal(0.01, 0.03, 20_000)
    label = (rng.random(20_000) < expit(60 * difference - 0.8)).astype(float)
    scale, shift = fit_calibration(difference, label)
    assert scale == pytest.approx(60, rel=0.05)
    assert shift == pytest.approx(-0.8, abs=0.06)
    separable = fit_calibration(np.array([-1.0, -0.5, 0.5, 1.0]), np.array([0.0, 0, 1, 1]))
    assert np.isfinite(separable).all()
    with pytest.raises(UserError, match="both kinds"):
        fit_calibration(difference, np.ones(20_000))


def test_pictures_fill_what_captions_leave_open(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", [
        {"key": "a", "caption": "a man", "image": picture((255, 0, 0))},
        {"key": "b", "caption": "someone", "image": picture((255, 0, 0))},
    ])  # fmt: skip

    class Red(Toy):
        def encode_images(self, images: Sequence[bytes]) -> np.ndarray:
            return self._embed(["w"] * len(images))

    path = tmp_path / "prompts.yaml"
    path.write_text(yaml.safe_dump(GENDER))
    seen = {"kind": "pictures", "prompts": str(path), "model": {"name": "red"}}
    both = {"sources": [{"kind": "captions", "attributes": ["gender"]}, {**seen, "fallback": True}]}
    annotator = build_annotator(both, lambda model: Red())
    found = read_attributes(annotate_shards([str(shard)], annotator, tmp_path / "out", progress=False)[0])
    assert found.s[:, 0].tolist() == [0, 1]
    with pytest.raises(UserError, match="'woman' comes from two sources"):
        build_annotator({"sources": [both["sources"][0], seen]}, lambda model: Red())
    with pytest.raises(UserError, match="no picture model"):
        build_annotator(both)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": None}, "need 'values:'"),
        ({"scal": 1}, "unknown key 'scal'"),
        ({"values": {"woman": [], "man": ["m"]}}, "at least one prompt"),
        ({"positive": "person"}, "'positive' must be"),
    ],
)
def test_bad_prompts(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        source(tmp_path, {**GENDER, **change})


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no prompts 'gendre'.*gender"):
        load_prompts("gendre")
    with pytest.raises(UserError, match=r"threshold=0\.3"):
        source(tmp_path, GENDER, threshold=0.3)
    with pytest.raises(UserError, match="no key 'batchsize'"):
        source(tmp_path, GENDER, batchsize=3)


@pytest.mark.parametrize("name", sorted(path.stem for path in PROMPTS_FOLDER.glob("*.yaml")))
def test_built_in_prompts_tell_values_apart(name: str) -> None:
    spec = load_prompts(name)
    assert ("attribute" in spec) != ("concepts" in spec)
    assert 0 < spec["threshold"] < 1
    prompts = [prompt for texts in [*spec["values"].values(), spec["none"]] for prompt in texts]
    assert all(isinstance(prompt, str) and len(prompt.split()) >= 2 for prompt in prompts)
    assert len(set(prompts)) == len(prompts)  # none stands for two values
    assert len(spec["values"]) >= 2
    if "positive" in spec:
        assert spec["positive"] in spec["values"]


def test_a_real_model_with_random_weights(tmp_path: Path) -> None:
    from scripts.picture_encoder import encoder_factory

    model = {"name": "tiny", "config": {
        "embed_dim": 16, "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8},
    }}  # fmt: skip
    shard = write_tar(tmp_path / "s.tar", [{"key": f"k{i}", "caption": "x"} for i in range(5)])
    config = {"sources": [{"kind": "pictures", "prompts": "gender", "model": model, "soft": True, "batch_size": 2}]}
    first = build_annotator(config, encoder_factory("cpu", "fp32"))
    again = build_annotator(config, encoder_factory("cpu", "fp32"))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != build_annotator(config, encoder_factory("cpu", "bf16")).fingerprint
    found = read_attributes(annotate_shards([str(shard)], first, tmp_path / "out", progress=False)[0])
    assert found.s.shape == (5, 1)
    assert np.nanmax(np.abs(found.s - found.s[0])) < 1e-3 or np.isnan(found.s).all()
    encoder = encoder_factory("cpu", "fp32")(model)
    encoder.encode_texts(["a"])
    rows = encoder.encode_images([picture(), b"no picture"])
    assert np.linalg.norm(rows[0]) == pytest.approx(1, abs=1e-4)
    assert np.isnan(rows[1]).all()


def test_margins(tmp_path: Path) -> None:
    np.testing.assert_allclose(source(tmp_path, GENDER).margins(samples("wv"))[:, 0], [1, 0.2], atol=1e-6)
    concepts = {"concepts": "c", "values": {"a": ["w"], "b": ["m"]}, "none": ["n"]}
    np.testing.assert_allclose(source(tmp_path, concepts).margins(samples("v")), [[0.8, 0.6]], atol=1e-6)


def test_the_calibration_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from scripts import calibrate, picture_encoder

    class Bright(Toy):
        """Bright pictures look like women, by half."""

        def encode_images(self, images: Sequence[bytes]) -> np.ndarray:
            bright = np.array([np.asarray(Image.open(io.BytesIO(image))).mean() / 255 for image in images], np.float32)
            rows = np.stack([bright, 1 - bright, 0 * bright], axis=1)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    monkeypatch.setattr(picture_encoder, "encoder_factory", lambda *_: lambda model: Bright())
    rng = np.random.default_rng(0)
    faces = []
    for i in range(300):
        shade = int(rng.integers(0, 256))
        woman = rng.random() < expit((shade - 128) / 40)
        faces.append({"key": f"{i}", "image": picture((shade,) * 3), "meta": {"sex": "F" if woman else "M"}})
    shard = write_tar(tmp_path / "s.tar", faces)
    path = tmp_path / "prompts.yaml"
    path.write_text(yaml.safe_dump({**GENDER, "scale": 100.0}, sort_keys=False))
    wanted = [f"data.train={shard}", f"prompts={path}", "field=sex", "positive=f", "negative=m", "model={name: x}"]
    calibrate.main(wanted)
    lines = capsys.readouterr().out.splitlines()
    assert 1 < float(lines[0].split()[1]) < 20
    before, after = (float(line.partition("log loss ")[2].split(",")[0]) for line in lines[2:4])
    assert after < before
    assert lines[4].replace(":", "") in lines[3]
    yaml.safe_load("\n".join(lines))  # as they stand, for the prompts file
    with pytest.raises(
        UserError, match=r"no setting fields; it needs data\.train, prompts, field, positive, negative, model"
    ):
        calibrate.main([*wanted, "fields=age"])
    with pytest.raises(
        UserError, match=r"model must be given; it needs .*, and may be given most, device, precision, data"
    ):
        calibrate.main(wanted[:-1])
    with pytest.raises(UserError, match="No picture has age=f or m"):
        calibrate.main([*wanted, "field=age"])
