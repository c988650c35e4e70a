"""Write a model as a folder that open_clip or transformers loads.

`open_clip.create_model_and_transforms("local-dir:<folder>")`, or `transformers.AutoModel.from_pretrained("<folder>")`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balance.errors import UserError
from balance.files import whole_folder
from models import hf_config
from models.architecture import CONFIG_FILE
from models.checkpoint import note_sum
from models.factory import ModelBundle
from models.hf_export import WEIGHTS, write_transformers
from models.lite import TEXT_HUB, is_lite, place_text_files
from models.start import WEIGHT_FILES, preprocessing

FORMS = ("open_clip", "transformers")
CARD = "README.md"


def check_place(out: Path, overwrite: bool) -> None:
    """Check that a folder can be written.

    Raises:
        UserError: there is something, and it is not to be overwritten, or is no exported model.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{out} exists; choose another folder, or add overwrite=true.")
    if not any((out / name).is_file() and (out / CARD).is_file() for name in (CONFIG_FILE, hf_config.CONFIG_FILE)):
        raise UserError(
            f"{out} is no exported model (it has no {CONFIG_FILE} or {hf_config.CONFIG_FILE} with a {CARD}), so that "
            "it is not overwritten."
        )


def export(
    bundle: ModelBundle, out: Path, card: str, overwrite: bool = False, form: str = "open_clip", said: str = "The model"
) -> list[str]:
    """Write weights, configuration, tokenizer and card; the folder is complete or absent.

    Args:
        bundle: the model, without adapters.
        out: the folder.
        card: text of its README.md.
        overwrite: replace an exported model that is there.
        form: of `FORMS`.
        said: the model, for messages.

    Returns:
        What differs from the model as it is here, a sentence each.

    Raises:
        UserError: the folder can't be written, or the model has no such form.
    """
    check_place(out, overwrite)
    notes: list[str] = []
    with whole_folder(out) as part:
        if form == "transformers":
            notes, weights = write_transformers(bundle, part, said), part / WEIGHTS
        else:
            weights = _write(bundle, part)
        (part / CARD).write_text(card, encoding="utf-8")
        note_sum(weights)
        shutil.copymode(part / CARD, weights)  # safetensors lets the owner alone read its files
    return notes


def _write(bundle: ModelBundle, folder: Path) -> Path:
    """Write open_clip's files; that of the weights."""
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
    return folder / WEIGHT_FILES[0]


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """open_clip looks for a tokenizer that is not its own in the folder."""
    save: Callable[[str], Any] | None = getattr(tokenizer, "save_pretrained", None)
    if save is None:
        raise UserError(f"The tokenizer {type(tokenizer).__name__} can't be written, so that open_clip would lack it.")
    save(str(folder))
