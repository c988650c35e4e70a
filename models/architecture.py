"""A model's configuration as a folder, a checkpoint or a hub gives it: known keys, and sizes that can be built.

open_clip hands some of it on to libraries: keys for the tokenizer go to transformers, where `trust_remote_code` runs
Python from the folder. So what is not known is refused, and what does not fit into the machine, before it is allocated.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
from open_clip.coca_model import MultimodalCfg
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from balance.common.documents import read_mapping
from balance.errors import UserError

CONFIG_FILE = "open_clip_config.json"
TOP = {
    *("embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "custom_text"),
    *("init_logit_scale", "init_logit_bias", "nonscalar_logit_scale"),
}
VISION = {field.name for field in fields(CLIPVisionCfg)}
TEXT = {field.name for field in fields(CLIPTextCfg)}
MULTIMODAL = {*TEXT, *(field.name for field in fields(MultimodalCfg))}
TOKENIZER = {"clean", "strip_sep_token", "language", "reduction_mask", "additional_special_tokens"}
LARGEST = {
    "embed_dim": 1 << 16,
    "width": 1 << 16,
    "head_width": 1 << 16,
    "heads": 1 << 12,
    "layers": 1 << 10,
    "image_size": 1 << 14,
    "patch_size": 1 << 12,
    "vocab_size": 1 << 24,
    "context_length": 1 << 20,
    "mlp_ratio": 1 << 8,
    "attn_pooler_queries": 1 << 14,
    "n_queries": 1 << 14,
}
"""The largest value of each size, far above any model there is."""
CODE = "auto_map"
"""The key by which a transformers folder asks for Python of its own."""


def check_architecture(config: Any, said: str) -> None:
    """Check an open_clip `model_cfg`.

    Args:
        config: the configuration.
        said: where it is from, for messages.

    Raises:
        UserError: a key that is not known, a size that no model has, or more weights than the machine has memory.
    """
    if not isinstance(config, Mapping):
        raise UserError(f"{said}: the model's configuration holds no keys and values.")
    _check_keys(config, TOP, said, "")
    for part, known in (("vision_cfg", VISION), ("text_cfg", TEXT), ("multimodal_cfg", MULTIMODAL)):
        inner = config.get(part)
        if inner is None and part == "multimodal_cfg":
            continue
        if not isinstance(inner, Mapping):
            raise UserError(f"{said}: the model's configuration has no {part} with keys and values.")
        _check_keys(inner, known, said, f"{part}.")
        options = inner.get("tokenizer_kwargs")
        if options is not None:
            if not isinstance(options, Mapping):
                raise UserError(f"{said}: {part}.tokenizer_kwargs={options!r} holds no keys and values.")
            _check_keys(options, TOKENIZER, said, f"{part}.tokenizer_kwargs.")
    _check_memory(config, said)


def check_folder(folder: Path, said: str) -> dict[str, Any]:
    """Check a folder that open_clip and transformers are to read; its `open_clip_config.json`.

    Raises:
        UserError: the configuration is damaged or refused, or a file there asks for Python of its own.
    """
    found = read_mapping(folder / CONFIG_FILE, "an open_clip configuration", "export the model again")
    check_architecture(found.get("model_cfg", found), f"{said} ({folder / CONFIG_FILE})")
    check_no_code(folder, said)
    return found


def check_no_code(folder: Path, said: str) -> None:
    """Check that no JSON file of a transformers folder names Python to run.

    Raises:
        UserError: one does.
    """
    for path in sorted(folder.glob("*.json")):
        if path.stat().st_size > 1 << 20:  # a vocabulary, which transformers reads as one
            continue
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError):  # what is damaged is told by its reader
            continue
        if isinstance(content, dict) and CODE in content:
            raise UserError(
                f"{said}: {path} asks to run Python of its own ({CODE}), so it is refused; take the entry out if the "
                "model works without."
            )


@contextlib.contextmanager
def no_remote_code() -> Iterator[None]:
    """Let transformers refuse code from the hub at once, where it would ask the terminal and wait for an answer."""
    try:
        from transformers import dynamic_module_utils
    except ImportError:
        yield
        return
    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


def _check_keys(config: Mapping[str, Any], known: set[str], said: str, prefix: str) -> None:
    for key, value in config.items():
        if key not in known:
            raise UserError(
                f"{said}: {prefix}{key} is not known in a model's configuration, so it is refused; take it out. Known "
                f"here: {', '.join(sorted(known))}."
            )
        most = LARGEST.get(str(key))
        sizes = value if isinstance(value, list | tuple) else [value]
        if most is None or value is None:
            continue
        for size in sizes:
            if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size <= most:
                raise UserError(f"{said}: {prefix}{key}={str(value)[:80]} must be above 0 and at most {most:,}.")


def _check_memory(config: Mapping[str, Any], said: str) -> None:
    """Refuse what would not fit; counted from the sizes, since building it would be what is to be avoided."""
    needed = 4 * sum(_weights(config, part) for part in ("vision_cfg", "text_cfg", "multimodal_cfg"))
    have = psutil.virtual_memory().total
    if needed > have:
        raise UserError(
            f"{said}: a model of these sizes has about {needed / 2**30:,.0f} GiB of weights, and this machine has "
            f"{have / 2**30:,.0f} GiB of memory; check embed_dim, width, layers, image_size and vocab_size."
        )


def _weights(config: Mapping[str, Any], part: str) -> float:
    """About how many weights a tower has."""
    tower = config.get(part)
    if tower is None or tower.get("timm_model_name") or tower.get("hf_model_name"):
        return 0.0
    layers = tower.get("layers") or 12
    depth = sum(layers) if isinstance(layers, list | tuple) else layers
    width = tower.get("width") or 512
    blocks = depth * width * width * (4 + 2 * (tower.get("mlp_ratio") or 4.0))
    ends = width * (config.get("embed_dim") or 0)
    if part == "vision_cfg":
        size = tower.get("image_size") or 224
        side = max(size) if isinstance(size, list | tuple) else size
        patch = tower.get("patch_size") or 32
        patch = max(patch) if isinstance(patch, list | tuple) else patch
        return blocks + ends + width * (3 * patch * patch + (side / patch) ** 2)
    context = tower.get("context_length") or 77
    mask = context * context
    return blocks + ends + mask + width * ((tower.get("vocab_size") or 0) + context)
