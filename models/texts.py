"""Captions without the padding behind them: the same features for a part of the work.

In a causal text tower no token looks at those that follow it, and the feature is taken at the end of the text, so that
whatever stands behind the longest text of a batch changes nothing: neither features nor gradients, beyond rounding.
Captions have 10 to 40 of CLIP's 77 tokens.
"""

from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import nn

# Few lengths, since kernels are chosen for each anew; torch.compile makes one graph for all of them after the first.
SHORTEST, STEP = 24, 8


class AnyLengthCLIP(open_clip.CLIP):
    """open_clip's CLIP with a causal mask, which takes texts of fewer tokens than its context, too."""

    def encode_text(self, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Texts (n, length) to features (n, d)."""
        length = text.shape[1]
        dtype = self.transformer.get_cast_dtype()
        x = self.token_embedding(text).to(dtype) + self.positional_embedding[:length].to(dtype)
        mask: Any = self.attn_mask
        x = self.ln_final(self.transformer(x, attn_mask=mask[:length, :length]))
        pooled = x[torch.arange(len(x), device=x.device), text.argmax(dim=1)]
        projection: Any = self.text_projection
        if projection is not None:
            pooled = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        return F.normalize(pooled, dim=-1) if normalize else pooled


def take_any_length(model: nn.Module) -> bool:
    """Let a model take texts of any length up to its context, if padding behind them means nothing to it.

    That holds for open_clip's CLIP with its causal mask and its feature at the largest token. Towers that look at the
    padding (SigLIP), put a token behind it (CoCa) or come from elsewhere stay as they are.

    Returns:
        Whether `trim` may be used on its texts.
    """
    found: Any = model
    if type(model) is not open_clip.CLIP or found.attn_mask is None or found.text_pool_type != "argmax":
        return False
    model.__class__ = AnyLengthCLIP  # the same parameters under the same names
    return True


def trim(tokens: torch.Tensor) -> torch.Tensor:
    """Token ids (n, context) without the columns behind the end of the longest text, which is its largest token."""
    needed = max(int(tokens.argmax(dim=1).max()) + 1, SHORTEST)
    return tokens[:, : -(-needed // STEP) * STEP]
