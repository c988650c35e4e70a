"""A tokenizer of transformers in a folder, called as open_clip's are: texts to (n, context_length) token ids.

Texts go to it as they are, so that tokens are those of transformers' own processor; open_clip's wrapper would repair
and unescape them first. Only data is read: no folder's Python runs.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from balance.errors import UserError
from models.architecture import check_no_code, no_remote_code

FOLDER = "tokenizer"
"""Where a run keeps the tokenizer that its weights came with."""
FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model"),
)
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's vocabulary."""
    return any((folder / name).is_file() for name in _VOCABULARIES)


class FolderTokenizer:
    """Texts to token ids, padded and cut to one length.

    Attributes:
        folder: where the files are.
        context_length: tokens per text.
        tokenizer: transformers' own.
    """

    def __init__(self, folder: Path, context_length: int, said: str) -> None:
        """Read the files.

        Raises:
            UserError: they are damaged, ask for code, or need a package that is not installed.
        """
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise UserError(
                f"{said}: its tokenizer needs transformers; install it with: pip install 'transformers>=4.48'"
            ) from error
        check_no_code(folder, said)
        # Forked loader workers tokenise one batch at a time; threads of the tokenizer would only be warned about.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.folder, self.context_length = folder, context_length
        try:
            with no_remote_code():
                self.tokenizer: Any = AutoTokenizer.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
        except Exception as error:  # transformers raises many kinds
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{said}: the tokenizer in {folder} can't be read: {reason}") from error

    def __call__(self, texts: Sequence[str], context_length: int | None = None) -> torch.Tensor:
        """Token ids (n, context_length), int64."""
        length = context_length or self.context_length
        found = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        ids: torch.Tensor = found["input_ids"]
        return ids

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy the files."""
        copy_tokenizer(self.folder, Path(folder))

    def check(self, vocabulary: int, siglip: bool, said: str) -> list[str]:
        """Check that the model can take what this gives; what should be known, a sentence each.

        Raises:
            UserError: tokens are unknown to the model, or padding stands before the text.
        """
        if len(self.tokenizer) > vocabulary:
            raise UserError(
                f"{said}: its tokenizer has {len(self.tokenizer):,} tokens, its model {vocabulary:,}; they do not "
                "belong together."
            )
        if not siglip and self.tokenizer.padding_side != "right":
            raise UserError(f"{said}: its tokenizer pads before the text, which moves what CLIP has learned by place.")
        if siglip and "attention_mask" in self.tokenizer.model_input_names:
            return [
                "the tokenizer gives an attention mask, without which SigLIP was trained; padding is seen here, as then"
            ]
        return []


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy a tokenizer's files, with the `config.json` by which older ones are told."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*FILES, "config.json"):
        if (source / name).is_file() and not (name == "config.json" and (folder / name).exists()):
            shutil.copyfile(source / name, folder / name)
