"""A transformers folder's own words about a model, as open_clip's: `config.json` and the image processor's file.

CLIP and SigLIP have the same form in both libraries, so that weights of one run in the other's modules (`hf_weights`).
What open_clip can't compute is refused by its name, never approximated.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip.constants import INCEPTION_MEAN, INCEPTION_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from balance.common.documents import read_mapping
from balance.errors import UserError
from models.siglip_tower import tower_name

CONFIG_FILE = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
KINDS = ("clip", "siglip")
"""The `model_type`s that have a form in open_clip. SigLIP 2 at a fixed resolution is of type `siglip`, too."""
TANH = ("gelu_pytorch_tanh", "gelu_new")  # the same function under two names
_INTERPOLATION = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
_TEXT = {
    "clip": {"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "max_position_embeddings": 77}
    | {"num_hidden_layers": 12, "num_attention_heads": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    | {"eos_token_id": 49407},
    "siglip": {"vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072, "max_position_embeddings": 64}
    | {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
_VISION = {
    "clip": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    | {"image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    | {"image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
"""transformers writes only what differs from these in older folders."""


def is_transformers(folder: Path) -> bool:
    """Whether a folder is one of transformers'."""
    return (folder / CONFIG_FILE).is_file()


def read_config(folder: Path, said: str) -> dict[str, Any]:
    """The `config.json` of a folder.

    Raises:
        UserError: it is damaged, or of a model that open_clip has no form of.
    """
    found = read_mapping(folder / CONFIG_FILE, "a transformers configuration", "save the model again")
    kind = found.get("model_type")
    if kind == "siglip2":
        raise UserError(
            f"{said} is a SigLIP 2 model for pictures of any shape (NaFlex), which can't be trained here; take one of "
            "a fixed resolution, such as google/siglip2-base-patch16-224, whose model_type is siglip."
        )
    if kind not in KINDS:
        raise UserError(
            f"{said}: {folder / CONFIG_FILE} has model_type {str(kind)[:60]!r}; of transformers' models CLIPModel and "
            "SiglipModel (with SigLIP 2 at a fixed resolution) can be used."
        )
    return found


def model_cfg(config: Mapping[str, Any], said: str, tokenizer: str | None) -> dict[str, Any]:
    """open_clip's `model_cfg` of a transformers configuration.

    Args:
        config: of `read_config`.
        said: what the user wrote to name it, for messages.
        tokenizer: name of the tokenizer that lies beside it; None for open_clip's own.

    Raises:
        UserError: it asks for something that open_clip can't compute.
    """
    kind = config["model_type"]
    text, vision = _part(config, "text", _TEXT[kind], said), _part(config, "vision", _VISION[kind], said)
    found = _clip(config, text, vision, said) if kind == "clip" else _siglip(text, vision, said)
    if tokenizer is not None:
        found["text_cfg"]["hf_tokenizer_name"] = tokenizer
    return found


def _part(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any], said: str) -> dict[str, Any]:
    """A tower's settings with transformers' defaults, its sizes as whole numbers."""
    given = config.get(f"{name}_config") or {}
    if not isinstance(given, Mapping):
        raise UserError(f"{said}: {name}_config of its config.json holds no keys and values.")
    given = {**given, **(config.get(f"{name}_config_dict") or {})}  # the older key goes first, as in transformers
    found = {**defaults, **{key: value for key, value in given.items() if value is not None}}
    for key in ("image_size", "patch_size"):
        value = found.get(key)
        if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
            found[key] = value[0]
    for key, default in defaults.items():
        if isinstance(default, int) and (isinstance(found[key], bool) or not isinstance(found[key], int)):
            raise UserError(f"{said}: {name}_config.{key}={str(found[key])[:60]} in its config.json is not an integer.")
    if not isinstance(found["layer_norm_eps"], int | float) or found["num_attention_heads"] < 1:
        raise UserError(f"{said}: {name}_config of its config.json has sizes that no model has.")
    if found["hidden_size"] < 1 or found["hidden_size"] % found["num_attention_heads"]:
        raise UserError(
            f"{said}: {name}_config.hidden_size={found['hidden_size']} is no multiple of num_attention_heads="
            f"{found['num_attention_heads']}."
        )
    if found.get("num_channels", 3) != 3:
        raise UserError(f"{said}: vision_config.num_channels={found['num_channels']}; pictures have 3.")
    return found


def _clip(config: Mapping[str, Any], text: dict[str, Any], vision: dict[str, Any], said: str) -> dict[str, Any]:
    quick = {part["hidden_act"] == "quick_gelu" for part in (text, vision)}
    if len(quick) == 2:
        raise UserError(
            f"{said}: its towers have the activations {text['hidden_act']} and {vision['hidden_act']}; open_clip has "
            "quick_gelu in both or in none."
        )
    end = text["eos_token_id"]
    # transformers takes the feature at the largest token where the end is 2, a mistake of old folders that it keeps.
    largest = end in (2, text["vocab_size"] - 1)
    found = {
        "embed_dim": config.get("projection_dim") or 512,
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "patch_size": vision["patch_size"],
            **_ratio(vision),
            **_numerics(vision, said, 1e-5),
        },
        "text_cfg": {
            **_text_sizes(text),
            **_numerics(text, said, 1e-5),
            **({} if largest else {"pool_type": "eos", "eos_id": _end(end, said)}),
        },
    }
    return {**found, "quick_gelu": True} if True in quick else found


def _siglip(text: dict[str, Any], vision: dict[str, Any], said: str) -> dict[str, Any]:
    width = vision["hidden_size"]
    if not vision.get("vision_use_head", True):
        raise UserError(f"{said}: vision_config.vision_use_head=false leaves its picture tower without a feature.")
    if (text.get("projection_size") or text["hidden_size"]) != width:
        raise UserError(f"{said}: text features have {text.get('projection_size')} numbers, picture features {width}.")
    activation = vision["hidden_act"]
    for part in (text, vision):
        if part["hidden_act"] not in ("gelu", *TANH):
            raise UserError(f"{said}: a SigLIP tower has gelu or {TANH[0]}, not {str(part['hidden_act'])[:60]!r}.")
    name = tower_name(
        width=width,
        depth=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        inner=vision["intermediate_size"],
        patch=vision["patch_size"],
        size=vision["image_size"],
        tanh=activation in TANH,
        eps=vision["layer_norm_eps"],
    )
    return {
        "embed_dim": width,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": vision["image_size"],
            "timm_model_name": name,
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            **_text_sizes(text),
            **_numerics(text, said, 1e-5),
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    }


def _text_sizes(text: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "context_length": text["max_position_embeddings"],
        "vocab_size": text["vocab_size"],
        "width": text["hidden_size"],
        "heads": text["num_attention_heads"],
        "layers": text["num_hidden_layers"],
        **_ratio(text),
    }


def _ratio(part: Mapping[str, Any]) -> dict[str, float]:
    """`mlp_ratio`, from which open_clip computes the inner width by cutting the product off."""
    width, inner = part["hidden_size"], part["intermediate_size"]
    if inner == 4 * width:
        return {}
    ratio = inner / width
    return {"mlp_ratio": ratio if int(width * ratio) == inner else (inner + 0.5) / width}


def _numerics(part: Mapping[str, Any], said: str, eps: float) -> dict[str, Any]:
    """Activation and epsilon, where they are not open_clip's."""
    activation = part["hidden_act"]
    if activation not in ("gelu", "quick_gelu", *TANH):
        raise UserError(
            f"{said}: its activation {str(activation)[:60]!r} has no form in open_clip, which has gelu, quick_gelu and "
            "gelu_pytorch_tanh."
        )
    found: dict[str, Any] = {"act_kwargs": {"approximate": "tanh"}} if activation in TANH else {}
    if part["layer_norm_eps"] != eps:
        found["norm_kwargs"] = {"eps": part["layer_norm_eps"]}
    return found


def _end(end: Any, said: str) -> int:
    if isinstance(end, bool) or not isinstance(end, int):
        raise UserError(f"{said}: text_config.eos_token_id={str(end)[:60]} is no token, at which features are taken.")
    return end


def preprocess_cfg(folder: Path, config: Mapping[str, Any], said: str) -> dict[str, Any]:
    """open_clip's `preprocess_cfg` of a folder's image processor; its model's usual one where the file is missing.

    The key `crop: floor` is ours: transformers cuts the middle out at a place rounded down, open_clip to even.

    Raises:
        UserError: it does something that open_clip can't.
    """
    siglip = config["model_type"] == "siglip"
    given = _processor(folder)
    mean, std = (INCEPTION_MEAN, INCEPTION_STD) if siglip else (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    for key, must in (("do_resize", True), ("do_rescale", True)):
        if given.get(key, must) is not must:
            raise UserError(f"{said}: its image processor has {key}={given[key]}, which can't be done here.")
    if abs(float(given.get("rescale_factor") or 1 / 255) - 1 / 255) > 1e-9:
        raise UserError(f"{said}: its image processor has rescale_factor={given['rescale_factor']} instead of 1/255.")
    resample = given.get("resample", 3)
    if resample not in _INTERPOLATION:
        raise UserError(f"{said}: its image processor has resample={resample}; bilinear (2) and bicubic (3) are known.")
    found: dict[str, Any] = {
        "mean": _three(given, "image_mean", mean, said),
        "std": _three(given, "image_std", std, said),
        "interpolation": _INTERPOLATION[resample],
        "resize_mode": "squash" if siglip else "shortest",
    }
    if given.get("do_normalize") is False:
        found |= {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    image = (_part(config, "vision", _VISION[config["model_type"]], said))["image_size"]
    size = given.get("size", image)
    crop = bool(given.get("do_center_crop", not siglip))
    if isinstance(size, Mapping) and "height" in size:
        found["resize_mode"] = "squash"
        sizes = {size["height"], size.get("width")}
    else:
        found["resize_mode"] = "shortest"
        sizes = {size.get("shortest_edge") if isinstance(size, Mapping) else size}
    if crop:
        cut = given.get("crop_size", image)
        sizes |= {cut["height"], cut.get("width")} if isinstance(cut, Mapping) else {cut}
    elif found["resize_mode"] == "shortest":
        raise UserError(f"{said}: its image processor does not cut pictures to a square (do_center_crop=false).")
    if sizes != {image}:
        raise UserError(
            f"{said}: its image processor makes pictures of {sorted(map(str, sizes))} pixels, its model takes {image}; "
            "open_clip resizes to the model's size alone."
        )
    return {**found, "crop": "floor"} if found["resize_mode"] == "shortest" else found


def _processor(folder: Path) -> dict[str, Any]:
    for name in PROCESSORS:
        if (folder / name).is_file():
            found = read_mapping(folder / name, "an image processor's configuration", "save the processor again")
            inner = found.get("image_processor")
            if isinstance(inner, Mapping) or name == PROCESSORS[0]:
                return dict(inner) if isinstance(inner, Mapping) else found
    return {}


def _three(given: Mapping[str, Any], key: str, default: Any, said: str) -> list[float]:
    value = given.get(key) or list(default)
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        raise UserError(f"{said}: its image processor has {key}={str(value)[:60]}; three numbers are needed.")
    return [float(v) for v in value]
