"""Write a model as a transformers folder: configuration, weights, tokenizer, image processor.

The inverse of `hf_config`. CLIPModel computes what open_clip's own towers do, and SiglipModel what its SigLIP towers
do; every setting without a place there is refused by its name. Features
and tokens are compared before the folder stands.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from safetensors.torch import save_file
from timm.models import VisionTransformer
from torch import nn

from balance.errors import UserError
from models.factory import ModelBundle
from models.hf_config import TANH
from models.hf_tokenizer import FolderTokenizer
from models.hf_weights import to_transformers
from models.lite import is_lite

WEIGHTS, PYTORCH = "model.safetensors", {"format": "pt"}
_TOKENIZER = "tokenizer_config.json"
CLOSE = 1e-5
"""How far features of the two libraries may lie apart, as a share of the largest."""
_SETTINGS = {"vision_cfg": asdict(CLIPVisionCfg()), "text_cfg": asdict(CLIPTextCfg())}
_SIZES = {"layers", "width", "heads", "head_width", "mlp_ratio", "patch_size", "image_size", "context_length"}
_COMMON = {*_SIZES, "vocab_size", "act_kwargs", "norm_kwargs", "patch_dropout", "block_type"}
_WORDS = {"hf_tokenizer_name", "tokenizer_kwargs", "pad_id", "eos_id"}
_UNUSED = {"attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained", "timm_drop", "timm_drop_path"}
_UNUSED |= {"hf_model_pretrained", "hf_proj_type", "hf_pooler_type"}
_SIGLIP = {"timm_model_name", "timm_pool", "timm_proj"}
_SIGLIP_TEXT = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers
_TEXTS = ["a photo of a nurse", "Two DOGS, at work!", "the woman " * 60, ""]


def check_form(config: Mapping[str, Any], preprocess: Mapping[str, Any], said: str) -> bool:
    """Check that a model has a form in transformers; whether that is SiglipModel (else CLIPModel).

    Args:
        config: open_clip's `model_cfg`.
        preprocess: open_clip's `preprocess_cfg`.
        said: the model, for messages.

    Raises:
        UserError: it has none; the sentence names the first setting without a place there.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    why = None
    siglip = "_siglip_" in str(vision.get("timm_model_name")) or str(vision.get("timm_model_name", "")).startswith(
        "siglip_"
    )
    if is_lite(config) or text.get("hf_model_name"):
        why = "its text tower is itself a model of transformers, beside which CLIPModel has no place for its projection"
    elif config.get("multimodal_cfg"):
        why = "it is a CoCa with a text decoder"
    elif vision.get("timm_model_name") and not siglip:
        why = f"its picture tower is timm's {vision['timm_model_name']}"
    elif isinstance(vision.get("layers"), list | tuple):
        why = "its picture tower is a ResNet"
    elif preprocess.get("resize_mode") == "longest":
        why = "its pictures are padded to a square (resize_mode=longest)"
    elif preprocess.get("interpolation", "bicubic") not in _RESAMPLE:
        why = f"its pictures are resized by interpolation={preprocess['interpolation']}"
    else:
        why = _misfit("vision_cfg", vision, siglip, {"timm_pool": "map", "timm_proj": "none"} if siglip else {})
        why = why or _misfit("text_cfg", text, siglip, _SIGLIP_TEXT if siglip else {})
    if why is not None:
        raise UserError(
            f"{said} has no form in transformers' CLIPModel and SiglipModel: {why}; export it with format=open_clip."
        )
    return siglip


def _misfit(part: str, given: Mapping[str, Any], siglip: bool, wanted: Mapping[str, Any]) -> str | None:
    """The first setting that CLIPModel or SiglipModel has no place for, or one that it must have and that is not so."""
    free = _COMMON | _UNUSED | (_WORDS if part == "text_cfg" else set())
    for key, default in _SETTINGS[part].items():
        value, must = given.get(key, default), wanted.get(key, default)
        if key in free or (siglip and key in _SIGLIP and key not in wanted):
            continue
        if key == "pool_type" and part == "text_cfg" and not siglip and value == "eos" and given.get("eos_id") != 2:
            continue
        if (value or None) != (must or None):
            return f"{part}.{key}={value}, where it has {must}"
    size = given.get("image_size", 224) if part == "vision_cfg" else 1
    if isinstance(size, list | tuple) and len(set(size)) > 1:
        return f"vision_cfg.image_size={list(size)} is no square"
    return None


def write_transformers(bundle: ModelBundle, folder: Path, said: str) -> list[str]:
    """Write a model's weights, configuration, tokenizer and image processor into a folder.

    Args:
        bundle: the model, without adapters, on the CPU.
        folder: where to; it is there, and empty.
        said: the model, for messages.

    Returns:
        What differs from the model as it is here, a sentence each.

    Raises:
        UserError: the model has no form in transformers, or transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError("format=transformers needs transformers; install it with: pip install transformers") from error
    siglip = check_form(bundle.config["model_cfg"], bundle.config["preprocess_cfg"], said)
    length = _text_length(bundle)
    words = _write_tokenizer(bundle.tokenizer, folder, length, siglip)
    text, vision = _siglip_parts(bundle) if siglip else _clip_parts(bundle)
    marks = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = {**{key: value for key, value in marks.items() if value is not None}, **text}
    if not siglip:
        text["eos_token_id"] = _end(bundle, text)
    kind: Any = transformers.SiglipModel if siglip else transformers.CLIPModel
    config: Any = (transformers.SiglipConfig if siglip else transformers.CLIPConfig)(
        text_config=text,
        vision_config=vision,
        **({} if siglip else {"projection_dim": bundle.config["model_cfg"]["embed_dim"]}),
    )
    tensors = {name: tensor.detach().cpu() for name, tensor in bundle.model.state_dict().items()}
    layers = {"text": text["num_hidden_layers"], "vision": vision["num_hidden_layers"]}
    try:
        model = kind(config)
        model.load_state_dict(to_transformers(tensors, siglip, layers))
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{said} has no form in transformers: its weights have another ({reason}).") from error
    _compare(bundle, model.eval(), words, length, said)
    _image_processor(bundle, siglip).save_pretrained(str(folder))
    config.architectures = [kind.__name__]
    config.save_pretrained(str(folder))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS, PYTORCH)
    notes = []
    if not siglip and "logit_bias" in tensors:
        notes.append(
            "the logit bias is left out, which CLIPModel has not: features and the order of labels are the same"
        )
    if bundle.config["preprocess_cfg"].get("resize_mode", "shortest") == "shortest" and not _floors(bundle):
        notes.append(
            "where an odd number of pixels is cut off, transformers cuts the middle up to one pixel away from open_clip"
        )
    return notes


def _floors(bundle: ModelBundle) -> bool:
    return bundle.config["preprocess_cfg"].get("crop") == "floor"


def _text_length(bundle: ModelBundle) -> int:
    return int(bundle.config["model_cfg"]["text_cfg"].get("context_length") or 77)


def _clip_parts(bundle: ModelBundle) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of CLIPModel's text and picture towers."""
    config = bundle.config["model_cfg"]
    vision, quick = {**_SETTINGS["vision_cfg"], **config["vision_cfg"]}, bool(config.get("quick_gelu"))
    sizes = {
        "hidden_size": vision["width"],
        "intermediate_size": int(vision["width"] * vision["mlp_ratio"]),
        "num_hidden_layers": vision["layers"],
        "num_attention_heads": vision["width"] // vision["head_width"],
        "image_size": _one(vision["image_size"]),
        "patch_size": _one(vision["patch_size"]),
        **_numerics(vision, quick),
    }
    return _text_part(config, quick), sizes


def _text_part(config: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    text = {**_SETTINGS["text_cfg"], **config["text_cfg"]}
    return {
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["context_length"],
        "hidden_size": text["width"],
        "intermediate_size": int(text["width"] * text["mlp_ratio"]),
        "num_hidden_layers": text["layers"],
        "num_attention_heads": text["heads"],
        **_numerics(text, quick),
    }


def _siglip_parts(bundle: ModelBundle) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of SiglipModel's towers; those of the picture tower as timm has built it."""
    config = bundle.config["model_cfg"]
    trunk: Any = bundle.model.get_submodule("visual.trunk")
    assert isinstance(trunk, VisionTransformer)
    block: Any = trunk.blocks[0]
    vision = {
        "hidden_size": trunk.embed_dim,
        "intermediate_size": block.mlp.fc1.out_features,
        "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": block.attn.num_heads,
        "image_size": bundle.image_size,
        "patch_size": trunk.patch_embed.patch_size[0],
        "hidden_act": _activation(block.mlp.act),
        "layer_norm_eps": block.norm1.eps,
    }
    return {**_text_part(config, False), "projection_size": trunk.embed_dim}, vision


def _activation(layer: nn.Module) -> str:
    """Which GELU a layer computes, told by its values."""
    x = torch.linspace(-4, 4, 99)
    with torch.no_grad():
        return TANH[0] if torch.allclose(layer(x), F.gelu(x, approximate="tanh"), rtol=0, atol=1e-6) else "gelu"


def _numerics(part: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    tanh = (part.get("act_kwargs") or {}).get("approximate") == "tanh"
    activation = "quick_gelu" if quick else TANH[0] if tanh else "gelu"
    return {"hidden_act": activation, "layer_norm_eps": (part.get("norm_kwargs") or {}).get("eps", 1e-5)}


def _end(bundle: ModelBundle, text: Mapping[str, Any]) -> int:
    """The token at which CLIPModel takes the feature; 2 makes it take the largest one, as open_clip does."""
    given = bundle.config["model_cfg"]["text_cfg"]
    if given.get("pool_type", "argmax") == "eos":
        return int(given["eos_id"])
    largest = text["vocab_size"] - 1
    return largest if text.get("eos_token_id") == largest else 2


def _one(value: Any) -> int:
    return int(value[0] if isinstance(value, list | tuple) else value)


def _write_tokenizer(tokenizer: Any, folder: Path, length: int, siglip: bool) -> Any:
    """Write the tokenizer's files; what transformers makes of them."""
    import transformers

    if isinstance(tokenizer, SimpleTokenizer) and siglip:
        raise UserError(
            "A SigLIP model with CLIP's tokenizer has no form in transformers: its texts are padded with the token of "
            "'!', which transformers would then take for padding wherever it stands; use format=open_clip."
        )
    if isinstance(tokenizer, SimpleTokenizer):
        marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
        vocabulary = {marks.get(token, token): place for token, place in tokenizer.encoder.items()}
        merges = "\n".join(" ".join(pair) for pair in tokenizer.bpe_ranks)
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
        fast = getattr(transformers, "CLIPTokenizerFast", transformers.CLIPTokenizer)  # one class from version 5 on
        words: Any = fast.from_pretrained(str(folder))
    elif isinstance(tokenizer, FolderTokenizer):
        words = transformers.AutoTokenizer.from_pretrained(
            str(tokenizer.folder), local_files_only=True, trust_remote_code=False
        )
    elif isinstance(tokenizer, HFTokenizer):
        words = _with_cleaning(tokenizer)
    else:
        raise UserError(f"The tokenizer {type(tokenizer).__name__} has no form in transformers; use format=open_clip.")
    words.model_max_length = length
    words.save_pretrained(str(folder))
    settings = json.loads((folder / _TOKENIZER).read_text(encoding="utf-8"))
    if siglip:  # trained without a mask: padding is seen
        settings["model_input_names"] = ["input_ids"]
    if settings.get("tokenizer_class") == "TokenizersBackend":  # the name that version 4 knows, too
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / _TOKENIZER).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _with_cleaning(tokenizer: Any) -> Any:
    """The tokenizer of transformers with open_clip's cleaning of texts before it.

    Damaged encodings and HTML entities, which open_clip mends, stay as they are.

    Raises:
        UserError: the cleaning has no form there.
    """
    from tokenizers import Regex, normalizers
    from transformers import PreTrainedTokenizerFast

    words, cleaning = copy.deepcopy(tokenizer.tokenizer), tokenizer.clean_fn.__name__
    blanks = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    first: list[Any]
    if "canonicalize" in cleaning:
        first = [normalizers.Replace("_", " "), normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), "")]
        first += [normalizers.Lowercase(), *blanks]
    elif "whitespace" in cleaning:
        first = blanks
    elif "lower" in cleaning:
        first = [normalizers.Lowercase(), *blanks]
    else:
        raise UserError(f"The tokenizer's cleaning {cleaning} has no form in transformers; use format=open_clip.")
    if tokenizer.strip_sep_token or tokenizer.tokenizer_mode:
        raise UserError("A tokenizer that replaces its own tokens has no form in transformers; use format=open_clip.")
    own = getattr(words, "backend_tokenizer", None)
    if own is None:
        raise UserError(f"The tokenizer {type(words).__name__} has no fast form; use format=open_clip.")
    own.normalizer = normalizers.Sequence([*first, *([] if own.normalizer is None else [own.normalizer])])
    # A class of its own would build its normaliser anew when it is loaded.
    return PreTrainedTokenizerFast(tokenizer_object=own, **words.special_tokens_map)


def _image_processor(bundle: ModelBundle, siglip: bool) -> Any:
    from transformers.models.clip import CLIPImageProcessor
    from transformers.models.siglip import SiglipImageProcessor

    side, facts = bundle.image_size, bundle.config["preprocess_cfg"]
    square = {"height": side, "width": side}
    common: dict[str, Any] = {
        "image_mean": list(bundle.mean),
        "image_std": list(bundle.std),
        "resample": _RESAMPLE[facts.get("interpolation") or "bicubic"],
        "do_convert_rgb": True,
    }
    squash = facts.get("resize_mode") == "squash"
    if siglip and squash:
        return SiglipImageProcessor(size=square, **common)
    if squash:
        return CLIPImageProcessor(size=square, do_center_crop=False, **common)
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size=square, **common)


def _compare(bundle: ModelBundle, model: Any, words: Any, length: int, said: str) -> None:
    """Check that both libraries find the same.

    Raises:
        UserError: they do not.
    """
    own: Any = bundle.model.eval()
    mine = bundle.tokenizer(_TEXTS)
    found = words(_TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    pixels = torch.randn(2, 3, bundle.image_size, bundle.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = {
            "pictures": (own.encode_image(pixels), _features(model.get_image_features, pixel_values=pixels)),
            "texts": (own.encode_text(mine), _features(model.get_text_features, **found)),
        }
    for name, (ours, theirs) in pairs.items():
        apart = float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1e-12))
        if not apart <= CLOSE:
            raise UserError(
                f"{said} has no form in transformers: features of {name} would lie {apart:.1g} of their size apart."
            )


def _features(encode: Callable[..., Any], **inputs: Any) -> torch.Tensor:
    """Features, which transformers gives alone or, from version 5, in an object."""
    found = encode(**inputs)
    tensor: torch.Tensor = getattr(found, "pooler_output", found)
    return tensor
