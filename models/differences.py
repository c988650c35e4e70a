"""Where an architecture differs from the one that weights were trained in, in ways that no tensor's shape shows.

Weights made with another activation, epsilon, pooling, number of heads or tokenizer load without a word and compute
something else. What their source says of itself is taken, and told.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg

# Adapted with a note where weights are read (sizes), drawn anew in training (dropout), or where to begin from.
_FREE = {
    *("image_size", "context_length", "patch_dropout", "timm_drop", "timm_drop_path", "timm_model_pretrained"),
    *("hf_model_pretrained", "hf_model_name", "output_tokens", "ls_init_value"),
}
_SIZES = {"layers", "width", "patch_size", "vocab_size", "mlp_ratio", "embed_dim"}  # shapes show them
_DEFAULTS = {"vision_cfg": asdict(CLIPVisionCfg()), "text_cfg": asdict(CLIPTextCfg())}
_PIXELS = ("mean", "std", "interpolation", "resize_mode")


def take_hidden(
    wanted: Mapping[str, Any], source: Mapping[str, Any], said: str, name: str
) -> tuple[dict[str, Any], list[str]]:
    """An architecture with what its weights were trained with.

    Args:
        wanted: open_clip's `model_cfg` that is to be built.
        source: that of the weights.
        said: what the user wrote to name the weights, for messages.
        name: of the architecture, for messages.

    Returns:
        The architecture, and a sentence for each change.
    """
    found, notes = copy.deepcopy(dict(wanted)), []

    def take(place: dict[str, Any], prefix: str, key: str, ours: Any, theirs: Any, given: bool) -> None:
        if _same(ours, theirs):
            return
        if given:
            place[key] = copy.deepcopy(theirs)
        else:
            place.pop(key, None)
        notes.append(f"{said}: its weights were trained with {prefix}{key}={theirs}, taken instead of {ours} of {name}")

    take(
        found, "", "quick_gelu", bool(wanted.get("quick_gelu")), bool(source.get("quick_gelu")), "quick_gelu" in source
    )
    for part, defaults in _DEFAULTS.items():
        ours, theirs = dict(found.get(part) or {}), dict(source.get(part) or {})
        if bool(ours.get("timm_model_name")) != bool(theirs.get("timm_model_name")):
            continue  # towers of another kind, whose tensors do not fit
        if bool(ours.get("hf_model_name")) != bool(theirs.get("hf_model_name")):
            continue
        for key in sorted({*ours, *theirs} - _FREE - _SIZES):
            default = defaults.get(key)
            take(ours, f"{part}.", key, ours.get(key, default), theirs.get(key, default), key in theirs)
        found[part] = ours
    return found, notes


def pixel_notes(wanted: Mapping[str, Any], source: Mapping[str, Any], said: str) -> list[str]:
    """A sentence for each way in which pictures are prepared otherwise than the weights are used to."""
    return [
        f"model.preprocess.{key}={wanted[key]} is kept, where {said} was trained with {source[key]}"
        for key in _PIXELS
        if wanted.get(key) is not None and source.get(key) is not None and not _same(wanted[key], source[key])
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-4)
    return bool((one or None) == (other or None))
