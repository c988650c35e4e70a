"""Weights from a file, read without running code from it, and fitted into a model as open_clip fits them."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from open_clip.convert import convert_state_dict, load_big_vision_weights
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from torch import nn

from balance.common.documents import read_mapping
from balance.errors import UserError
from models.adapt import merge_adapters
from models.checkpoint import verify_checkpoint

Tensors = dict[str, torch.Tensor]
PREFIXES = ("module.", "_orig_mod.")  # of DDP and of torch.compile
# of wrappers around parts of a model: FSDP, torch.compile, activation checkpointing
WITHIN = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")
INDEX = ".index.json"
"""How the file ends that says in which file each tensor of a divided checkpoint is."""
TABLES = ("token_embedding.weight", "text.token_embedding.weight", "text.transformer.embeddings.word_embeddings.weight")


@dataclass
class Weights:
    """What a file holds.

    Attributes:
        tensors: a state dict under the model's own names, adapters merged; the EMA's, if the run kept one.
        config: open_clip `model_cfg` and `preprocess_cfg`, if the file is a checkpoint of a run; else {}.
        step: of the checkpoint; None for other files.
        averaged: whether `tensors` are an EMA.
        transformers: whether they are from transformers, which adapts positions in another way than open_clip.
        npz: big_vision's file, whose `tensors` have its own names and shapes.
    """

    tensors: Tensors
    config: dict[str, Any] = field(default_factory=dict)
    step: int | None = None
    averaged: bool = False
    transformers: bool = False
    npz: Path | None = None


def read_weights(path: Path, said: str, ema: bool = True) -> Weights:
    """Read a `.safetensors` file, torch's own format, or big_vision's `.npz`; code in it is never run.

    Args:
        path: the file: tensors by name, the same under `state_dict`, or a checkpoint of a run.
        said: what the user wrote to name it, such as `model.init_from=x.pt`, for messages.
        ema: take the average of a run's checkpoint that has one.

    Raises:
        UserError: the file is damaged, holds no weights, or would run code.
    """
    if path.suffix == ".npz":
        arrays = _read_arrays(path, said)
        check_tensors(arrays, said)
        return Weights(arrays, npz=path)
    content = _read_parts(path, said) if path.name.endswith(INDEX) else _read(path, said)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        return _of_run(content, ema, said)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        raise UserError(f"{said} is no file of weights: it holds no tensors by name.")
    tensors = dict(content)
    tensors = _unwrapped({_without_wrappers(str(name)): tensor for name, tensor in tensors.items()})
    check_tensors(tensors, said)
    return Weights(tensors)


def _read_arrays(path: Path, said: str) -> Tensors:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: torch.from_numpy(np.atleast_1d(file[name])) for name in file.files}
    except Exception as error:  # numpy and zipfile raise many kinds
        raise UserError(
            f"{said} is no file of weights: {one_line(error)}; of .npz files those of big_vision's SigLIP are read, "
            "which hold arrays of numbers alone."
        ) from error
    if not found:
        raise UserError(f"{said} is no file of weights: it holds no arrays.")
    return found


def fit(model: nn.Module, weights: Weights, said: str, name: str) -> list[str]:
    """Load weights of whichever form into a model; what was adjusted, a sentence each.

    Raises:
        UserError: they do not fit.
    """
    if weights.npz is None:
        return fit_weights(model, weights.tensors, said, name, weights.transformers)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    try:
        load_big_vision_weights(model, str(weights.npz))  # refused below if it is of another kind
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError) as error:
        model.load_state_dict(before)
        raise UserError(
            f"{said} does not fit the model {name}: open_clip reads big_vision's SigLIP weights into its own SigLIP "
            f"models, such as model.name=ViT-B-16-SigLIP, of the same sizes ({type(error).__name__}: "
            f"{one_line(error, 160)})."
        ) from error
    return []


def _unwrapped(tensors: Tensors) -> Tensors:
    """Without the prefixes that wrappers put before every name, in whichever order and however often."""
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _unwrapped({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def _without_wrappers(name: str) -> str:
    for part in WITHIN:
        name = name.replace(part, "")
    return name


def _read_parts(path: Path, said: str) -> Tensors:
    """The tensors of a checkpoint in several files, which lie beside its index."""
    index = read_mapping(path, "the index of divided weights", "save the model again").get("weight_map")
    if not isinstance(index, Mapping) or not index:
        raise UserError(f"{said}: {path} has no weight_map, which says where each tensor is.")
    files = sorted({str(file) for file in index.values()})
    found: Tensors = {}
    for file in files:
        if Path(file).name != file:
            raise UserError(f"{said}: {path} names {file[:80]!r}, which does not lie beside it, so it is refused.")
        part = _read(path.parent / file, said)
        if not isinstance(part, Mapping):
            raise UserError(f"{said}: {path.parent / file} holds no tensors by name.")
        found |= part
    if missing := sorted(set(map(str, index)) - set(found)):
        raise UserError(f"{said}: {missing[0]} is in none of {', '.join(files[:3])}, where {path.name} has it.")
    return found


def check_tensors(tensors: Mapping[str, Any], said: str) -> None:
    """Check that weights are finite, and that none claims more values than its file holds.

    Args:
        tensors: by name.
        said: what the user wrote to name them, for messages.

    Raises:
        UserError: one is not.
    """
    for name, tensor in tensors.items():
        if not torch.is_tensor(tensor):
            raise UserError(f"{said}: {name} is no tensor.")
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(
                f"{said}: the tensor {name} of shape {tuple(tensor.shape)} has more values than are stored for it, so "
                "it is refused."
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            wrong = int((~torch.isfinite(tensor)).sum())
            raise UserError(
                f"{said}: {wrong:,} of {tensor.numel():,} values of {name} are NaN or infinite; take an earlier "
                "checkpoint, from before training went wrong."
            )


def _read(path: Path, said: str) -> Any:
    if not path.is_file():
        raise UserError(f"{said}: there is no file {path}.")
    verify_checkpoint(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on formats that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UserError(
            f"{said} is no file of weights: it holds more than tensors and plain values, and reading that would run "
            f"code from the file, so it is refused ({_why(error)}); save its state dict alone, as .safetensors."
        ) from error
    except Exception as error:  # torch's reader raises whatever it stumbles over: KeyError, EOFError, RuntimeError
        if "TorchScript" in str(error):
            raise UserError(
                f"{said} is a TorchScript archive, which holds code, so it is refused; save its state dict alone."
            ) from error
        raise UserError(f"{said} is no file of weights: {one_line(error)}") from error


def _why(error: Exception) -> str:
    """The one telling sentence of torch's long one."""
    text = one_line(error, 5000)
    at = max(text.find("GLOBAL "), text.find("Unsupported"))
    return " ".join(text[at:].split()[:3]) if at >= 0 else f"{type(error).__name__}"


def _of_run(state: Mapping[str, Any], ema: bool, said: str) -> Weights:
    tensors = dict(state["model"])
    average = state.get("ema") if ema else None
    if average is not None:
        tensors |= average["average"]
    check_tensors(tensors, said)
    if any(".lora_" in name for name in tensors):
        tensors = merge_adapters(tensors, state["lora_scale"])
    clock = state.get("clock") or {}
    return Weights(tensors, dict(state.get("model_config") or {}), clock.get("step"), average is not None)


def fit_weights(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], said: str, name: str, transformers: bool = False
) -> list[str]:
    """Load weights into a model, adjusted as open_clip adjusts them.

    Position embeddings are interpolated to the model's picture size and text length; both of open_clip's forms of a
    text tower are understood. A logit bias that the model lacks is dropped: softmax does not see it. One that the
    weights lack keeps the model's own initial value (open_clip takes 0, a far worse start for the sigmoid loss).

    Args:
        model: an open_clip model, changed in place.
        tensors: a state dict.
        said: what the user wrote to name the weights, for messages.
        name: the model's name, for messages.
        transformers: adapt positions as transformers does: those of pictures without smoothing, those of texts cut off.

    Returns:
        What was adjusted, a sentence each.

    Raises:
        UserError: the weights do not fit; the sentence says what is missing, unknown, or of another shape.
    """
    wanted = model.state_dict()
    found = _to_form(dict(convert_state_dict(model, dict(tensors))), wanted)
    notes = []
    for scalar in ("logit_scale", "logit_bias"):
        if scalar in found and scalar in wanted:
            found[scalar] = found[scalar].reshape(wanted[scalar].shape)
    if "logit_bias" in found and "logit_bias" not in wanted:
        del found["logit_bias"]
        notes.append("the weights' logit bias is left out: the softmax loss does not see it")
    elif "logit_bias" in wanted and "logit_bias" not in found:
        found["logit_bias"] = wanted["logit_bias"]
        notes.append(f"the weights have no logit bias; it starts at {wanted['logit_bias'].detach().mean().item():g}")
    _check_vocabulary(found, wanted, said, name)
    for place in [key for key in found if key not in wanted and key.endswith(".position_ids")]:
        del found[place]
    notes += _resize_positions(model, found, wanted, transformers)
    _check_fit(found, wanted, said, name)
    model.load_state_dict(found)
    return notes


def _to_form(found: Tensors, wanted: Mapping[str, torch.Tensor]) -> Tensors:
    """From open_clip's one form of the text tower, its parts in the model itself, to the other, or back."""
    if "positional_embedding" in found and "positional_embedding" not in wanted:
        return convert_to_custom_text_state_dict(found)
    if "text.positional_embedding" in found and "positional_embedding" in wanted:
        return {name.removeprefix("text."): tensor for name, tensor in found.items()}
    return found


def _check_vocabulary(found: Tensors, wanted: Mapping[str, torch.Tensor], said: str, name: str) -> None:
    for table in TABLES:
        if table in found and table in wanted and found[table].shape[0] != wanted[table].shape[0]:
            raise UserError(
                f"{said} does not fit the model {name}: its vocabulary has {found[table].shape[0]} tokens, the model's "
                f"{wanted[table].shape[0]}, so that the tokenizers differ; take the architecture with the weights "
                "(model=from)."
            )


def _resize_positions(
    model: nn.Module, found: Tensors, wanted: Mapping[str, torch.Tensor], transformers: bool
) -> list[str]:
    """Interpolate position embeddings whose number differs and whose width does not."""
    notes = []
    for key in [key for key in found if key.endswith(("positional_embedding", "pos_embed")) and key in wanted]:
        old, new = found[key].shape, wanted[key].shape
        if old == new or old[-1] != new[-1]:
            continue
        if key == "visual.positional_embedding":
            resize_pos_embed(found, model, antialias=not transformers)
        elif key.endswith("pos_embed"):
            found[key] = _resize_timm(model, found[key], not transformers)
        elif transformers and new[-2] < old[-2]:
            found[key] = found[key][: new[-2]]
            notes.append(f"{key} is cut from {old[-2]} to {new[-2]} positions")
            continue
        else:
            resize_text_pos_embed(found, model)
        notes.append(f"{key} is interpolated from {old[-2]} to {new[-2]} positions")
    return notes


def _resize_timm(model: nn.Module, old: torch.Tensor, smooth: bool) -> torch.Tensor:
    from timm.layers import resample_abs_pos_embed

    trunk = model.get_submodule("visual.trunk")
    prefix = 0 if getattr(trunk, "no_embed_class", False) else int(getattr(trunk, "num_prefix_tokens", 0))
    grid: Any = trunk.get_submodule("patch_embed").grid_size
    return resample_abs_pos_embed(old, new_size=list(grid), num_prefix_tokens=prefix, antialias=smooth)


def _check_fit(found: Tensors, wanted: Mapping[str, torch.Tensor], said: str, name: str) -> None:
    missing = sorted(set(wanted) - set(found))
    unknown = sorted(set(found) - set(wanted))
    other = [key for key in wanted if key in found and wanted[key].shape != found[key].shape]
    faults = []
    if missing:
        faults.append(f"{len(missing)} tensor(s) are missing ({_some(missing)})")
    if unknown:
        faults.append(f"{len(unknown)} are unknown to the model ({_some(unknown)})")
    if other:
        shapes = f"{tuple(found[other[0]].shape)} instead of {tuple(wanted[other[0]].shape)}"
        faults.append(f"{len(other)} have another shape ({_some(other)}: {shapes})")
    if faults:
        raise UserError(
            f"{said} does not fit the model {name}: {'; '.join(faults)}. To take the architecture with the weights, "
            "where they carry it, use model=from."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")


def one_line(error: Exception, length: int = 300) -> str:
    """An error's text on one line, cut."""
    return " ".join(str(error).split())[:length]
