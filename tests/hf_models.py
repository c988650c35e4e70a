"""Small CLIPModel and SiglipModel folders as transformers writes them, with tokenizer and image processor."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, SiglipConfig, SiglipModel
from transformers.models.clip import CLIPImageProcessor
from transformers.models.siglip import SiglipImageProcessor

WORDS = ("a", "photo", "of", "nurse", "doctor", "two", "dogs", "chef", "at", "work", "woman", "man", "the")
START, END = "<|startoftext|>", "<|endoftext|>"


def vocabulary() -> dict[str, int]:
    """Single letters, the same at the end of a word, whole words, and the two marks."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,&;'!-"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(f"{word}</w>" for word in WORDS if len(word) > 1)]
    return {token: place for place, token in enumerate([*dict.fromkeys(tokens), START, END])}


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a byte-pair tokenizer of a few words into a folder."""
    vocab = vocabulary()
    merges = []
    for word in WORDS:
        have = [*word[:-1], f"{word[-1]}</w>"]
        while len(have) > 1:
            if f"{have[0]} {have[1]}" not in merges:
                merges.append(f"{have[0]} {have[1]}")
                vocab.setdefault("".join(have[:2]), len(vocab))
            have = ["".join(have[:2]), *have[2:]]
    ordered = {token: place for place, token in enumerate(sorted(vocab, key=lambda t: (t in (START, END), t == END)))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ordered))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    made = CLIPTokenizer.from_pretrained(str(folder))
    made.save_pretrained(str(folder))
    return made


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights large enough that every part shows in the features."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("logit_"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def clip_folder(folder: Path, text: Any = None, vision: Any = None, **rest: Any) -> tuple[CLIPModel, CLIPTokenizer]:
    """A CLIPModel of two small towers."""
    words = tokenizer(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"eos_token_id": len(words) - 1, "bos_token_id": len(words) - 2, "pad_token_id": len(words) - 1}
    texts = {**sizes, **ends, "vocab_size": len(words), "max_position_embeddings": 16, **(text or {})}
    pictures = {**sizes, "image_size": 32, "patch_size": 8, **(vision or {})}
    config = CLIPConfig(text_config=texts, vision_config=pictures, **{"projection_dim": 24, **rest})
    model = randomise(CLIPModel(config))
    model.save_pretrained(str(folder))
    side = pictures["image_size"]
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        str(folder)
    )
    return model, words


def siglip_folder(folder: Path, text: Any = None, vision: Any = None) -> tuple[SiglipModel, CLIPTokenizer]:
    """A SiglipModel of two small towers, with the tokenizer of `clip_folder` for want of SigLIP's own."""
    words = tokenizer(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_input_names": ["input_ids"]}))
    words = CLIPTokenizer.from_pretrained(str(folder))
    sizes = {"hidden_size": 32, "intermediate_size": 70, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1}
    texts = {
        **sizes,
        "vocab_size": len(words),
        **ends,
        "max_position_embeddings": 16,
        "projection_size": 32,
        **(text or {}),
    }
    pictures = {**sizes, "image_size": 32, "patch_size": 8, **(vision or {})}
    model = randomise(SiglipModel(SiglipConfig(text_config=texts, vision_config=pictures)))
    model.save_pretrained(str(folder))
    side = pictures["image_size"]
    SiglipImageProcessor(size={"height": side, "width": side}, resample=2).save_pretrained(str(folder))
    return model, words
