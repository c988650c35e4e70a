"""Build a model with its tokenizer and preprocessing: an open_clip name, or an open_clip configuration of our own."""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import Compose, Normalize

from balance.errors import UserError
from models.checkpoint import is_checkpoint, load_checkpoint
from models.lite import check_lite, is_lite, load_towers, place_config

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
    """

    model: nn.Module
    tokenizer: Tokenizer
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Callable[[Image.Image], Image.Image]
    config: dict[str, Any]
    loss: str

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """From uint8 pixels (b, 3, h, w) to the floats that the model expects, on the pixels' device."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return (pixels.float() / 255 - mean) / std


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


def check_model_name(name: str, config: Mapping[str, Any] | None, pretrained: str | None) -> None:
    """Check a model's name and pretrained tag without building anything.

    Raises:
        UserError: open_clip has no such model or tag; the sentence names the nearest. Or a package is not installed.
    """
    if config is not None and is_lite(config):
        check_lite(config)
    if config is not None or name.startswith("hf-hub:"):
        return
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        if not (folder / "open_clip_config.json").is_file():
            raise UserError(
                f"model.name={name}: there is no {folder / 'open_clip_config.json'}; name an exported folder."
            )
        return
    names = open_clip.list_models()
    if name.replace("/", "-") not in names:
        near = get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "see open_clip.list_models()."
        raise UserError(f"model.name={name}: open_clip has no model of that name; {hint}")
    if pretrained and not Path(pretrained).exists():
        tags = open_clip.list_pretrained_tags_by_model(name)
        if pretrained not in tags:
            known = ", ".join(tags) or "none"
            raise UserError(f"model.pretrained={pretrained} is neither a file nor a tag of {name}, which has {known}.")


def create(
    name: str,
    config: Mapping[str, Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    pretrained: str | None = None,
    loss: str | None = None,
    context_length: int | None = None,
    device: str | torch.device = "cpu",
) -> ModelBundle:
    """Build a model.

    Args:
        name: an open_clip model name, `local-dir:<folder>`, `hf-hub:<repo>`; or any name, if `config` is given.
        config: an open_clip `model_cfg` to build from scratch.
        preprocess: an open_clip `preprocess_cfg` to go with `config`.
        pretrained: an open_clip tag, or a file of weights.
        loss: "clip" or "siglip"; by default "siglip" if the model has a logit bias.
        context_length: shorter texts than the model's own are faster.
        device: where the model goes.

    Raises:
        UserError: an unknown name or tag, weights that can't be had, or a loss that does not go with the model.
    """
    check_model_name(name, config, pretrained)
    with tempfile.TemporaryDirectory() as folder, _quiet():
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
                load_weights=config is None,
                pretrained_text=not is_lite(config),
            )
            if is_lite(config):
                load_towers(model)
            if pretrained:
                load_weights(model, name, pretrained, device)
            tokenizer = open_clip.get_tokenizer(source, context_length=context_length)
        except OSError as error:  # a download that fails, mostly
            raise UserError(f"model.name={name}, model.pretrained={pretrained}: can't load it ({error}).") from error
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
        resize=Compose(resize),
        config={
            "model_cfg": dict(config) if config else open_clip.get_model_config(name),
            "preprocess_cfg": model.visual.preprocess_cfg,
        },
        loss=kind,
    )


def load_weights(model: nn.Module, name: str, pretrained: str, device: str | torch.device) -> None:
    """Load weights into a model: an open_clip tag, a file, or a checkpoint of a run; nothing in it is executed.

    Raises:
        UserError: the weights do not fit the model, or the file can't be read.
    """
    path = Path(pretrained)
    try:
        if not path.is_file():
            path = Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, pretrained)))
        if is_checkpoint(path):
            model.load_state_dict(load_checkpoint(path, device)["model"])
        else:
            open_clip.load_checkpoint(model, str(path), device=device)
    except RuntimeError as error:
        raise UserError(f"model.pretrained={pretrained} does not fit the model {name}: {_first_line(error)}") from error
    except UserError:
        raise
    except Exception as error:  # torch's reader raises whatever it stumbles over: KeyError, EOFError, UnpicklingError
        raise UserError(f"model.pretrained={pretrained} is no file of weights: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


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
