"""Where a parameter lies in a model: its tower, and its depth there, found by its name.

The names are those of open_clip's own towers, of timm's and of transformers', which all number their blocks.
"""

import re
from collections.abc import Iterator

from torch import nn

TOWERS = ("image", "text")
_BLOCK = re.compile(r"(?:^|\.)(?:(?:resblocks|blocks|layers?|stages)\.|layer)(\d+)\.")
_BEFORE = re.compile(
    r"(?:^|\.)(?:conv1|conv_stem|bn1|ln_pre|norm_pre|stem|patch_embed|pos_embed|cls_token|reg_token|cls_emb|embeddings"
    r"|class_embedding|positional_embedding|token_embedding)(?:\.|$)"
)


def tower_of(name: str) -> str | None:
    """The tower of a parameter, "image" or "text"; None for the logit scale and bias, which belong to neither."""
    if name.startswith("visual."):
        return "image"
    return None if name.startswith("logit_") else "text"


def block_of(name: str) -> int | None:
    """The number of the block that a parameter or module lies in; None for those before and after the blocks."""
    found = _BLOCK.search(name)
    return int(found[1]) if found else None


def depths(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, str | None, int]]:
    """(name, parameter, tower, depth) of all parameters.

    Depth 0 are embeddings and stems, 1 to L the blocks, L + 1 what comes after them: the last norm and the projection.
    The logit scale and bias have the tower None and a depth above all.
    """
    named = list(model.named_parameters())
    blocks = dict.fromkeys(TOWERS, 0)
    for name, _ in named:
        tower, block = tower_of(name), block_of(name)
        if tower is not None and block is not None:
            blocks[tower] = max(blocks[tower], block + 1)
    for name, parameter in named:
        tower, block = tower_of(name), block_of(name)
        if tower is None:
            yield name, parameter, None, max(blocks.values()) + 1
        elif block is not None:
            yield name, parameter, tower, block + 1
        else:
            yield name, parameter, tower, 0 if _BEFORE.search(name) else blocks[tower] + 1
