"""Write a model as a folder that open_clip loads: `open_clip.create_model_and_transforms("local-dir:<folder>")`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balance.errors import UserError
from balance.files import whole_folder
from models.architecture import CONFIG_FILE
from models.checkpoint import note_sum
from models.factory import ModelBundle
from models.lite import TEXT_HUB, is_lite, place_text_files
from models.start import WEIGHT_FILES, preprocessing


def check_place(out: Path, overwrite: bool) -> None:
    """Check that a folder can be written.

    Raises:
        UserError: there is something, and it is not to be overwritten, or is no exported model.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{out} exists; choose another folder, or add overwrite=true.")
    if not (out / CONFIG_FILE).is_file():
        raise UserError(f"{out} is no exported model (it has no {CONFIG_FILE}), so that it is not overwritten.")


def export(bundle: ModelBundle, out: Path, card: str, overwrite: bool = False) -> Path:
    """Write weights, configuration, tokenizer and card; the folder is complete or absent.

    Args:
        bundle: the model, without adapters.
        out: the folder.
        card: text of its README.md.
        overwrite: replace an exported model that is there.

    Raises:
        UserError: the folder can't be written.
    """
    check_place(out, overwrite)
    with whole_folder(out) as part:
        _write(bundle, part, card)
    return out


def _write(bundle: ModelBundle, folder: Path, card: str) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in bundle.model.state_dict().items()}
    save_file(tensors, folder / WEIGHT_FILES[0], {"format": "pt"})
    model = dict(bundle.config["model_cfg"])
    if is_lite(model):
        # open_clip asks transformers for the text tower's form by its name on the hub; the tokenizer is in the folder.
        place_text_files(folder)
        model["text_cfg"] = {**model["text_cfg"], "hf_model_name": TEXT_HUB, "hf_tokenizer_name": TEXT_HUB}
    elif model["text_cfg"].get("hf_tokenizer_name"):
        _save_tokenizer(bundle.tokenizer, folder)
    config = {"model_cfg": model, "preprocess_cfg": preprocessing(bundle.config["preprocess_cfg"])}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    note_sum(folder / WEIGHT_FILES[0])
    shutil.copymode(folder / CONFIG_FILE, folder / WEIGHT_FILES[0])  # safetensors lets the owner alone read its files


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """open_clip looks for a tokenizer that is not its own in the folder."""
    save: Callable[[str], Any] | None = getattr(tokenizer, "save_pretrained", None)
    if save is None:
        raise UserError(f"The tokenizer {type(tokenizer).__name__} can't be written, so that open_clip would lack it.")
    save(str(folder))
