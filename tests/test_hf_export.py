"""Models written as transformers folders: what its Auto classes and pipeline make of them, and the way to the hub."""

import base64
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from balance.errors import UserError
from models.export import export
from models.factory import ModelBundle, create
from models.hf_export import check_form
from models.hf_hub import check_push
from scripts import export as export_script
from tests.hf_models import clip_folder, siglip_folder, tokenizer
from tests.small_model import CONFIG, build, siglip_config
from tests.test_transformers import TEXTS, VARIANTS, ours, pictures, pooled, processor

SIGLIP = siglip_config(text_layers=1)


def written(bundle: ModelBundle, folder: Path) -> tuple[Any, Any]:
    """What transformers' Auto classes make of a bundle's export."""
    from transformers import AutoModel, AutoProcessor

    export(bundle, folder, "# card", form="transformers")
    return AutoModel.from_pretrained(str(folder)).eval(), AutoProcessor.from_pretrained(str(folder))


def apart(bundle: ModelBundle, model: Any, words: Any, folder: Path, texts: list[str]) -> tuple[float, float]:
    """Largest differences of features between the libraries, of pictures and of texts."""
    own: Any = bundle.model.eval()
    length = bundle.config["model_cfg"]["text_cfg"]["context_length"]
    tokens = words(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    pixels = processor(folder)(pictures(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        images = ours(bundle)[0] - pooled(model.get_image_features(pixels))
        features = own.encode_text(bundle.trim(bundle.tokenizer(texts))) - pooled(model.get_text_features(**tokens))
    return images.abs().max().item(), features.abs().max().item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back_again(variant: str, tmp_path: Path) -> None:
    make, options = VARIANTS[variant]
    model, _ = make(tmp_path / "made", **options)
    bundle = create("from", init_from=str(tmp_path / "made"))
    again, words = written(bundle, tmp_path / "out")
    assert max(apart(bundle, again, words.tokenizer, tmp_path / "out", TEXTS)) < 1e-5
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    if make is clip_folder and variant != "clip, old end":  # which the tokenizer corrects
        assert again.config.text_config.eos_token_id == model.config.text_config.eos_token_id
    # And here again: equal to the bit.
    third = create("from", init_from=str(tmp_path / "out"))
    for found, wanted in zip(ours(third), ours(bundle), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("config", "preprocess"),
    [
        (CONFIG, {"resize_mode": "squash", "mean": [0.5, 0.4, 0.3]}),
        ({**CONFIG, "quick_gelu": True, "init_logit_bias": -10}, {"crop": "floor"}),
        ({**CONFIG, "custom_text": True}, {"crop": "floor", "interpolation": "bilinear"}),
    ],
)
def test_models_of_open_clip(config: dict[str, Any], preprocess: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    bundle = create("small", config, preprocess)
    with torch.no_grad():
        for parameter in bundle.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model, words = written(bundle, tmp_path / "out")
    texts = ["a photo of a nurse", "Two  DOGS, at\nwork!", "naïve chefs' 3rd 😀", "the woman " * 30, ""]
    assert max(apart(bundle, model, words.tokenizer, tmp_path / "out", texts)) < 1e-5


@pytest.mark.parametrize("pixels", [{"resize_mode": "squash"}, {"crop": "floor"}])
def test_siglip_models_of_open_clip_with_their_cleaning_of_texts(pixels: dict[str, Any], tmp_path: Path) -> None:
    from open_clip.tokenizer import HFTokenizer

    words = tokenizer(tmp_path / "words")
    text = {**SIGLIP["text_cfg"], "vocab_size": len(words)}  # type: ignore[dict-item]
    torch.manual_seed(0)
    bundle = create("small", {**SIGLIP, "text_cfg": text}, pixels)
    bundle.tokenizer = HFTokenizer(str(tmp_path / "words"), context_length=12, clean="canonicalize")
    with torch.no_grad():
        for parameter in bundle.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model, out = written(bundle, tmp_path / "out")
    texts = ["a photo of a nurse", " Two_DOGS,  at\nwork!", "the woman " * 30, "", "chef's [dogs]"]
    assert max(apart(bundle, model, out.tokenizer, tmp_path / "out", texts)) < 1e-5
    with pytest.raises(UserError, match="padded with the token of '!'"):
        export(create("small", SIGLIP, pixels), tmp_path / "other", "", form="transformers")


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-B-16-SigLIP", "ViT-SO400M-16-SigLIP2-256", "ViT-bigG-14"])
def test_published_architectures_have_a_form(name: str) -> None:
    assert check_form(open_clip.get_model_config(name), {}, name) == ("SigLIP" in name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("RN50", "is a ResNet"),
        ("coca_ViT-B-32", "is a CoCa"),
        ("convnext_base", "is timm's convnext_base"),
        ("roberta-ViT-B-32", "itself a model of transformers"),
        ("ViT-H-14-CLIPA", r"vision_cfg\.no_ln_pre=True|text_cfg"),
    ],
)
def test_what_has_no_form_is_refused_with_the_reason(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=rf"run=x has no form in transformers.*({sentence}).*format=open_clip"):
        check_form(open_clip.get_model_config(name), {}, "run=x")


def test_features_that_differ_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = build()
    bundle.config["model_cfg"]["quick_gelu"] = True  # not what was built
    with pytest.raises(UserError, match="features of pictures would lie"):
        export(bundle, tmp_path / "out", "", form="transformers")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """open_clip's tokenizer, and transformers' of a folder exported with it."""
    bundle, folder = build(), tmp_path_factory.mktemp("words") / "out"
    return bundle.tokenizer, written(bundle, folder)[1].tokenizer


@settings(max_examples=150)
@given(st.text(st.characters(exclude_characters="&<>", max_codepoint=0x24F, exclude_categories=["Cc", "Cs"])))
def test_tokens_of_any_text_are_open_clips(tokenizers: tuple[Any, Any], text: str) -> None:
    import ftfy

    text = ftfy.fix_text(text)  # open_clip mends damaged encodings, transformers does not
    mine, theirs = tokenizers
    wanted = [token for token in mine([text])[0].tolist() if token]
    assert theirs(text, truncation=True).input_ids == wanted


@pytest.mark.parametrize("make", [clip_folder, siglip_folder])
def test_the_pipeline_answers_as_the_model_here(make: Callable[..., Any], tmp_path: Path) -> None:
    from transformers import pipeline

    make(tmp_path / "made", text={"max_position_embeddings": 64})  # which the pipeline takes for every SigLIP
    bundle = create("from", init_from=str(tmp_path / "made"))
    export(bundle, tmp_path / "out", "# card", form="transformers")
    labels, side = ["nurse", "doctor", "chef"], bundle.image_size
    picture = Image.effect_noise((side, side), 90).convert("RGB")  # of the model's size: resized by nobody
    answer: Any = pipeline("zero-shot-image-classification", model=str(tmp_path / "out"))(
        picture, candidate_labels=labels, hypothesis_template="a photo of a {}"
    )
    found = bundle.model.eval()(
        bundle.normalise(torch.tensor(list(picture.getdata()), dtype=torch.uint8).view(1, side, side, 3).movedim(3, 1)),
        bundle.tokenizer([f"a photo of a {label}" for label in labels]),
    )
    logits = found["logit_scale"] * found["image_features"] @ found["text_features"].T
    if bundle.loss == "siglip":
        wanted = torch.sigmoid(logits + found["logit_bias"])[0]
    else:
        wanted = logits.softmax(1)[0]
    scores = {entry["label"]: entry["score"] for entry in answer}
    assert [scores[label] for label in labels] == pytest.approx(wanted.tolist(), abs=1e-5)


class Hub(BaseHTTPRequestHandler):
    """What the hub answers to a client that makes a repository and sends files into it."""

    asked: list[tuple[str, str, Any]]
    public = False

    def do_GET(self) -> None:
        self.asked.append(("GET", self.path, None))
        if self.path.startswith("/api/whoami"):
            known = self.headers.get("Authorization") == "Bearer hf_known"
            self._answer(
                200 if known else 401, {"name": "me", "type": "user", "auth": {}} if known else {"error": "no"}
            )
        elif self.public:
            self._answer(200, {"id": "me/mine", "private": False, "siblings": []})
        else:
            self._answer(404, {"error": "none"}, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        content = [json.loads(line) for line in body.splitlines()]
        self.asked.append(("POST", self.path, content))
        address = f"http://{self.headers['Host']}/me/mine"
        if self.path == "/api/repos/create":
            self._answer(200, {"url": address, "name": "me/mine", "id": "me/mine"})
        elif "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in content[0]["files"]]
            self._answer(200, {"files": files})
        elif "/commit/" in self.path:
            self._answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{address}/commit/0"})
        else:
            self._answer(200, {})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on this machine, at which `hf_known` is logged in."""
    from huggingface_hub import constants

    kind = type("Here", (Hub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_known")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        yield kind
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("private", [True, False])
def test_a_run_goes_to_the_hub_private_unless_said_otherwise(
    private: bool, straight: Path, hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"run={straight}", f"out={tmp_path / 'out'}", "format=transformers"]
    export_script.run([*words, "license=mit", "push_to_hub=me/mine", *([] if private else ["private=false"])])
    sent = {path: content for method, path, content in hub.asked if method == "POST"}
    (made,) = sent["/api/repos/create"]
    assert (made.get("private") is True or made.get("visibility") == "private") == private
    assert made["name"] == "mine"
    files = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"])
        for line in sent["/api/models/me/mine/commit/main"]
        if line["key"] == "file"
    }
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    card = files["README.md"].decode()
    assert "library_name: transformers" in card
    assert "AutoProcessor.from_pretrained" in card
    assert "Sent to http://127.0.0.1" in capsys.readouterr().out


def test_nothing_is_sent_unasked_or_by_strangers(
    straight: Path, hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"run={straight}", f"out={tmp_path / 'out'}"]
    export_script.run(words)
    assert hub.asked == []
    monkeypatch.setattr(hub, "public", True)
    with pytest.raises(UserError, match="is there and public"):
        export_script.run([*words, "overwrite=true", "push_to_hub=me/mine"])
    check_push("me/mine", private=False)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(UserError, match="hf auth login"):
        export_script.run([*words, "overwrite=true", "push_to_hub=me/mine"])
    assert not [path for method, path, _ in hub.asked if method == "POST"]
    for wrong, sentence in (
        ("push_to_hub=mine", "write push_to_hub=<user"),
        ("format=onnx", "format=onnx is not known; it is one of open_clip, transformers"),
        ("private=perhaps", "it is true or false"),
    ):
        with pytest.raises(UserError, match=sentence):
            export_script.run([*words, "overwrite=true", wrong])
