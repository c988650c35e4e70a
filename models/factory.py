"""Build a model with its tokenizer and preprocessing: an open_clip name, or an open_clip configuration of our own."""

import contextlib
import copy
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import Compose, Normalize

from balance.errors import UserError
from models.architecture import check_architecture, check_folder, no_remote_code
from models.differences import pixel_notes, take_hidden
from models.hf_tokenizer import FolderTokenizer
from models.lite import check_lite, is_lite, load_towers, place_config
from models.siglip_tower import make_known
from models.start import (
    FROM,
    Start,
    check_name,
    check_tag,
    find_start,
    tag_config,
    tag_facts,
    take_architecture,
)
from models.texts import take_any_length, trim
from models.transforms import cut_as_transformers
from models.weights import fit, one_line, read_weights

Tokenizer = Callable[[list[str]], torch.Tensor]


@dataclass
class ModelBundle:
    """A model and all that is needed to feed it.

    Attributes:
        model: an open_clip model whose forward gives a dict of features, scale and bias.
        tokenizer: texts to token ids, (n, context_length) int64.
        image_size: height and width in pixels.
        mean: per-channel mean of the pixels, of 1.
        std: per-channel standard deviation of the pixels, of 1.
        resize: open_clip's evaluation transform up to, but without, conversion to float: a picture in, a picture out.
        config: the open_clip configuration (`model_cfg`, `preprocess_cfg`), enough to build the model again.
        loss: "clip" or "siglip".
        trims: whether padding behind the texts of a batch may be left out (`trim`).
        notes: what had to be adjusted to fit the weights in, a sentence each.
    """

    model: nn.Module
    tokenizer: Tokenizer
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Callable[[Image.Image], Image.Image]
    config: dict[str, Any]
    loss: str
    trims: bool = False
    notes: list[str] = field(default_factory=list)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """From uint8 pixels (b, 3, h, w) to the floats that the model expects, on the pixels' device.

        Floats are kept outputs of a frozen tower (`models.cached`) and stay as they are.
        """
        if pixels.is_floating_point():
            return pixels
        mean = 255 * torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = 255 * torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return pixels.float().sub_(mean).div_(std)  # in place: each copy of a batch costs more than the arithmetic

    def trim(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids (n, context_length) without what stands behind the longest text, where that changes nothing."""
        return trim(tokens) if self.trims else tokens


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from warning that a model which is to be trained from scratch has no weights yet."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def check_model_name(
    name: str, config: Mapping[str, Any] | None, pretrained: str | None, init_from: str | None = None
) -> None:
    """Check a model's name and where its weights come from, without building anything.

    Raises:
        UserError: open_clip has no such model or tag; the sentence names the nearest. Or `init_from` names nothing, or
            a package is not installed.
    """
    if init_from is not None:
        if pretrained is not None:
            raise UserError(
                "model.init_from and model.pretrained both name weights; model.pretrained is open_clip's word for a "
                "tag or a file, model.init_from takes anything: give one."
            )
        find_start(init_from)
    if config is not None and is_lite(config):
        check_lite(config)
    if config is not None or name.startswith("hf-hub:"):
        return
    if name == FROM:
        if init_from is None:
            raise UserError("model=from takes the architecture of model.init_from, which must be given.")
        return
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        if not (folder / "open_clip_config.json").is_file():
            raise UserError(
                f"model.name={name}: there is no {folder / 'open_clip_config.json'}; name an exported folder."
            )
        return
    check_name(name, f"model.name={name}")
    if pretrained and not Path(pretrained).exists():
        check_tag(name, pretrained, f"model.pretrained={pretrained}")


def create(
    name: str,
    config: Mapping[str, Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    pretrained: str | None = None,
    loss: str | None = None,
    context_length: int | None = None,
    device: str | torch.device = "cpu",
    init_from: str | None = None,
    image_size: int | None = None,
    load: bool = True,
    trim_text: bool = True,
    tokenizer_folder: str | Path | None = None,
) -> ModelBundle:
    """Build a model.

    Args:
        name: an open_clip model name, `local-dir:<folder>`, `hf-hub:<repo>`; any name, if `config` is given; or `from`,
            for the architecture that `init_from` carries.
        config: an open_clip `model_cfg` to build from scratch.
        preprocess: an open_clip `preprocess_cfg`; by default that of the weights.
        pretrained: an open_clip tag, or a file of weights.
        loss: "clip" or "siglip"; by default "siglip" if the model has a logit bias.
        context_length: shorter texts than the model's own are faster.
        device: where the model goes.
        init_from: weights from anywhere, see `models.start`.
        image_size: pictures of another size than the model's own, in pixels.
        trim_text: leave out the padding behind the texts of a batch, where that changes nothing.
        tokenizer_folder: a tokenizer of transformers, if other than that of the weights.
        load: False leaves `pretrained` and `init_from` unread but for the architecture, for weights that come later.

    Raises:
        UserError: an unknown name or tag, weights that can't be had or do not fit, or a loss that does not go with the
            model.
    """
    check_model_name(name, config, pretrained, init_from)
    notes: list[str] = []
    start = None if init_from is None else find_start(init_from)
    words = None  # where the tokenizer is, if not found by the architecture
    vocabulary = Path(tokenizer_folder) if tokenizer_folder is not None else None
    if vocabulary is None and start is not None:
        vocabulary = start.tokenizer_folder()
    _check_source(name, config)
    if name == FROM and config is None:
        assert start is not None
        words = start.tokenizer_source()
        name, config, preprocess, loss = take_architecture(start, preprocess, loss)
        check_architecture(config, start.said)
    elif source_of_weights := start or _file_start(pretrained):
        config, preprocess, notes = agree(name, config, preprocess, source_of_weights)
    if config is None and pretrained and not Path(pretrained).exists():
        facts = tag_config(name, pretrained)
        config, preprocess = facts["model_cfg"], preprocess or facts["preprocess_cfg"]
    make_known(((config or {}).get("vision_cfg") or {}).get("timm_model_name"))
    with tempfile.TemporaryDirectory() as folder, _quiet(), no_remote_code():
        source = name
        if config is not None:
            placed = place_config(config, Path(folder)) if is_lite(config) else dict(config)
            full = {"model_cfg": placed, "preprocess_cfg": dict(preprocess or {})}
            Path(folder, "open_clip_config.json").write_text(json.dumps(full))
            source = f"local-dir:{folder}"
        try:
            model, _, transform = open_clip.create_model_and_transforms(
                source,
                None,
                device=device,
                output_dict=True,
                force_context_length=context_length,
                force_image_size=image_size,
                **({} if config is not None else _transform_options(preprocess)),
                load_weights=config is None and load,
                pretrained_text=not is_lite(config),
            )
            if is_lite(config):
                model.visual.trunk.to(memory_format=torch.channels_last)  # its convolutions are faster so
                if load:
                    load_towers(model)
            tokenizer: Any
            if vocabulary is not None and not is_lite(config):
                length = context_length or _text_length(config, name)
                tokenizer = FolderTokenizer(vocabulary, length, f"model.name={name}")
                sigmoid = getattr(model, "logit_bias", None) is not None
                notes += tokenizer.check(_tokens(model), sigmoid, f"model.name={name}")
            else:
                if words is None or is_lite(config):
                    words = _tokenizer_source(source, config)
                tokenizer = open_clip.get_tokenizer(words, context_length=context_length)
        except UserError:
            raise
        except Exception as error:  # a download that fails, sizes that do not go together: libraries raise many kinds
            reason = f"{type(error).__name__}: {one_line(error)}"
            if "trust_remote_code" in reason:
                reason = "it asks to run Python of its own, which is refused"
            raise UserError(f"model.name={name}, model.pretrained={pretrained}: can't build it ({reason}).") from error
    if load and pretrained:
        said = f"model.pretrained={pretrained}"
        file = Path(pretrained) if Path(pretrained).is_file() else _fetch(name, pretrained)
        notes += fit(model, read_weights(file, said), said, name)
    if load and start is not None:
        notes += fit(model, start.weights(), start.said, name)
    *resize, _, normalize = transform.transforms
    assert isinstance(normalize, Normalize)
    kind = loss or ("siglip" if getattr(model, "logit_bias", None) is not None else "clip")
    _check_loss(kind, model, name)
    size = model.visual.image_size
    size = size if isinstance(size, int) else size[0]
    return ModelBundle(
        model=model,
        tokenizer=tokenizer,
        image_size=size,
        mean=tuple(normalize.mean),
        std=tuple(normalize.std),
        resize=Compose(cut_as_transformers(resize) if (preprocess or {}).get("crop") == "floor" else resize),
        config={
            "model_cfg": _as_built(config or open_clip.get_model_config(name), context_length, image_size),
            "preprocess_cfg": {**model.visual.preprocess_cfg, **_own_keys(preprocess)},
        },
        loss=kind,
        trims=trim_text and take_any_length(model),
        notes=notes,
    )


def agree(
    name: str, config: Mapping[str, Any] | None, preprocess: Mapping[str, Any] | None, start: Start
) -> tuple[dict[str, Any] | None, dict[str, Any] | None, list[str]]:
    """An architecture and preprocessing with what the weights to start from say of themselves.

    Returns:
        `model_cfg` (None: as before, that of the name), `preprocess_cfg`, and a sentence for each difference.

    Raises:
        UserError: the weights' configuration can't be had, or read.
    """
    theirs = start.config()
    source, pixels = theirs.get("model_cfg"), start.preprocess()
    notes = [] if preprocess is None else pixel_notes(preprocess, pixels, start.said)
    wanted = config if config is not None else open_clip.get_model_config(name.replace("/", "-"))
    kept = None if preprocess is None else dict(preprocess)
    if kept is None:
        kept = pixels or None
    if not source or wanted is None or is_lite(wanted):
        return None if config is None else dict(config), kept, notes
    check_architecture(source, start.said)
    found, changes = take_hidden(wanted, source, start.said, name)
    if not changes:
        return None if config is None else dict(config), kept, notes
    return found, kept, [*changes, *notes]


def _file_start(pretrained: str | None) -> Start | None:
    """`model.pretrained`, where it names a file, which may be a run's checkpoint with its architecture."""
    return find_start(pretrained, "model.pretrained") if pretrained and Path(pretrained).is_file() else None


def _text_length(config: Mapping[str, Any] | None, name: str) -> int:
    text = (config or open_clip.get_model_config(name) or {}).get("text_cfg") or {}
    return int(text.get("context_length") or 77)


def _tokens(model: Any) -> int:
    return int(getattr(model, "vocab_size", 0)) or 1 << 30


def _own_keys(preprocess: Mapping[str, Any] | None) -> dict[str, Any]:
    """What open_clip has no word for."""
    return {key: value for key, value in (preprocess or {}).items() if key == "crop"}


def _check_source(name: str, config: Mapping[str, Any] | None) -> None:
    """Check what open_clip would read by itself, and what is built from scratch.

    Raises:
        UserError: it would run code, or can't be built.
    """
    if config is not None:
        check_architecture(config, "model.config")
    elif name.startswith("local-dir:"):
        check_folder(Path(name.removeprefix("local-dir:")), f"model.name={name}")
    elif name.startswith("hf-hub:"):
        check_architecture(find_start(name, "model.name").config().get("model_cfg"), f"model.name={name}")


def _transform_options(preprocess: Mapping[str, Any] | None) -> dict[str, Any]:
    """A `preprocess_cfg` as open_clip's function takes it for an architecture of its own."""
    facts = preprocess or {}
    return {f"image_{key}": facts[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in facts}


def _as_built(config: Mapping[str, Any] | None, context_length: int | None, image_size: int | None) -> dict[str, Any]:
    """The `model_cfg` with the text length and picture size that the model was built with."""
    found: dict[str, Any] = copy.deepcopy(dict(config or {}))
    if context_length is not None:
        found["text_cfg"]["context_length"] = context_length
    if image_size is not None:
        found["vision_cfg"]["image_size"] = image_size
    return found


def _tokenizer_source(source: str, config: Mapping[str, Any] | None) -> str:
    """What open_clip finds the tokenizer by.

    A folder's configuration that names a tokenizer makes open_clip look for it in that folder, where an architecture of
    open_clip's own, or of a checkpoint, has none: those are found by the name of the architecture.
    """
    text = (config or {}).get("text_cfg") or {}
    if config is None or is_lite(config) or not text.get("hf_tokenizer_name"):
        return source
    for known in open_clip.list_models():
        other = open_clip.get_model_config(known) or {}
        if (other.get("text_cfg") or {}).get("hf_tokenizer_name") == text["hf_tokenizer_name"]:
            return known
    return source


def _fetch(name: str, tag: str) -> Path:
    try:
        return Path(open_clip.download_pretrained(tag_facts(name, tag)))
    except Exception as error:  # the hub's client and urllib have many
        raise UserError(f"model.pretrained={tag} can't be downloaded: {one_line(error)}") from error


def _check_loss(kind: str, model: nn.Module, name: str) -> None:
    if kind not in ("clip", "siglip"):
        raise UserError(f"model.loss={kind} is not known; it is clip or siglip.")
    if kind == "siglip" and getattr(model, "logit_bias", None) is None:
        raise UserError(
            f"model.loss=siglip needs a logit bias, which {name} has not; set init_logit_bias in its configuration."
        )
    if kind == "clip" and getattr(model, "logit_bias", None) is not None:
        # Unused under the softmax loss: without gradient it must not be optimised, or DDP waits for it for ever.
        model.logit_bias.requires_grad_(False)
