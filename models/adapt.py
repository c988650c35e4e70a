"""Train only a part of a model: frozen towers and blocks, or low-rank adapters beside frozen weights (LoRA)."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from balance.common.allowed import check_values, number
from balance.errors import UserError
from models.layers import TOWERS, block_of, depths, tower_of

_PROJECTIONS = ("in_proj", "out_proj")
_WEIGHT = {"default": "weight", "in_proj": "in_proj_weight", "out_proj": "out_proj.weight"}
"""The weight that an adapter of this name belongs to; `default` is peft's."""


@dataclass(frozen=True)
class Lora:
    """Settings of the adapters.

    Attributes:
        rank: inner size of an adapter's two matrices.
        alpha: adapters count alpha / rank times.
        dropout: on an adapter's input.
        targets: names of linear layers, or the ends of names, such as `c_fc` or, of attention, `attn`, `in_proj` and
            `out_proj`; None: all linear layers of blocks.
    """

    rank: int = number(8, 1, 10_000)
    alpha: float | None = number(None, 0, 1_000_000, above=True)
    dropout: float = number(0.0, 0, 1, below=True)
    targets: tuple[str, ...] | None = None

    @property
    def scale(self) -> float:
        """How often an adapter's product counts."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank


def check_adaptation(freeze: Mapping[str, Any] | None, lora: Mapping[str, Any] | None) -> Lora | None:
    """Check `model.freeze` and `model.lora`; the latter's settings.

    Raises:
        UserError: an unknown key, or a value that can't be.
    """
    for tower, amount in (freeze or {}).items():
        if tower not in TOWERS:
            raise UserError(f"model.freeze.{tower} is not known; it has image and text.")
        if amount not in (None, "all") and (isinstance(amount, bool) or not isinstance(amount, int) or amount < 0):
            raise UserError(
                f"model.freeze.{tower}={amount} is not understood; write all, the number of last blocks that train "
                "(0: only what follows them), or null for none frozen."
            )
    if not lora:
        return None
    known = [field.name for field in fields(Lora)]
    wrong = sorted(set(lora) - set(known))
    if wrong or "rank" not in lora:
        raise UserError(f"model.lora has {', '.join(known)}, of which rank must be given; got {', '.join(lora)}.")
    values = dict(lora)
    targets = values.pop("targets", None)
    found = Lora(
        **values, targets=None if targets is None else tuple([targets] if isinstance(targets, str) else targets)
    )
    check_values(found, "model.lora.")
    return found


def freeze_both(freeze: Mapping[str, Any] | None) -> dict[str, Any]:
    """`model.freeze` with both towers frozen, as `model.keep_outputs` needs them.

    Raises:
        UserError: blocks of a tower were to train.
    """
    for tower, amount in (freeze or {}).items():
        if amount not in (None, "all"):
            raise UserError(
                f"model.keep_outputs=true freezes both towers whole; leave model.freeze.{tower}={amount} out, or set "
                "model.keep_outputs=false."
            )
    return dict.fromkeys(TOWERS, "all")


def adapt(
    model: nn.Module, freeze: Mapping[str, Any] | None = None, lora: Mapping[str, Any] | None = None
) -> Lora | None:
    """Freeze parts of a model and put in adapters; the logit scale (and bias, where it is used) always trains.

    Args:
        model: an open_clip model, changed in place.
        freeze: tower -> "all" (as LiT: the whole tower, except for a projection on top of a tower from timm or
            transformers), or how many of its last blocks train, with what follows them.
        lora: see `Lora`; adapters go into what `freeze` leaves, whose own weights are then frozen, too.

    Returns:
        The adapters' settings.

    Raises:
        UserError: settings that can't be, or that fit no part of the model.
    """
    settings = check_adaptation(freeze, lora)
    for tower, amount in (freeze or {}).items():
        if amount is not None:
            _freeze(model, tower, amount)
    if settings is not None:
        _add_adapters(model, settings)
    _still_what_is_frozen(model)
    return settings


def _freeze(model: nn.Module, tower: str, amount: str | int) -> None:
    parts = list(depths(model))
    after = max(depth for _, _, where, depth in parts if where == tower)
    if isinstance(amount, int) and amount > after - 1:
        raise UserError(f"model.freeze.{tower}={amount}: the tower has {after - 1} blocks; give at most that, or null.")
    borrowed = {"image": "visual.trunk.", "text": "text.transformer."}[tower]
    on_top = amount == "all" and any(name.startswith(borrowed) for name, *_ in parts) and not _own_text(model, tower)
    for name, parameter, where, depth in parts:
        if where != tower:
            continue
        if amount == "all":
            frozen = name.startswith(borrowed) if on_top else True
        else:
            frozen = depth < after - int(amount)
        if frozen:
            parameter.requires_grad_(False)


def _own_text(model: nn.Module, tower: str) -> bool:
    """Whether a text tower is open_clip's own, in its form for a custom text model."""
    return tower == "text" and hasattr(getattr(model, "text", None), "token_embedding")


class LoraAttention(nn.Module):
    """open_clip's self-attention with adapters beside its two projections: W + scale B A each.

    `nn.MultiheadAttention` holds its weights itself, and peft's wrapper around it adds the output's adapter twice (its
    pull request 3774), and adds and subtracts the product in every step, so that frozen weights drift by rounding. Here
    products are computed beside the frozen weights, as in a linear layer with an adapter.

    Attributes:
        base_layer: the attention, whose weights stay.
        lora_A: projection (`in_proj`: queries, keys and values in one; `out_proj`) -> (rank, width).
        lora_B: projection -> (3 width or width, rank), zero at first.
    """

    def __init__(self, base: nn.MultiheadAttention, lora: Lora, projections: Sequence[str]) -> None:
        super().__init__()
        self.base_layer, self.scale, width = base, lora.scale, base.embed_dim
        self.dropout = nn.Dropout(lora.dropout)
        outer = {"in_proj": 3 * width, "out_proj": width}
        self.lora_A = nn.ModuleDict({name: nn.Linear(width, lora.rank, bias=False) for name in projections})
        self.lora_B = nn.ModuleDict({name: nn.Linear(lora.rank, outer[name], bias=False) for name in projections})
        for name in projections:
            nn.init.kaiming_uniform_(self.lora_A.get_parameter(f"{name}.weight"), a=math.sqrt(5))  # as peft's
            nn.init.zeros_(self.lora_B.get_parameter(f"{name}.weight"))
        self.to(base.out_proj.weight.device, base.out_proj.weight.dtype)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """Attention of a sequence to itself: (b, n, d), or (n, b, d) where the base has its batch second."""
        assert query is key is value, "cross-attention has no adapters"
        base: Any = self.base_layer
        x = query if base.batch_first else query.transpose(0, 1)
        together = self._project("in_proj", x, base.in_proj_weight, base.in_proj_bias)
        q, k, v = (part.unflatten(-1, (base.num_heads, -1)).transpose(1, 2) for part in together.chunk(3, dim=-1))
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = self._project("out_proj", x, base.out_proj.weight, base.out_proj.bias)
        return (x if base.batch_first else x.transpose(0, 1)), None

    def _project(self, name: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        found = F.linear(x, weight, bias)
        if name in self.lora_A:
            found = found + self.scale * self.lora_B[name](self.lora_A[name](self.dropout(x)))
        return found


def _add_adapters(model: nn.Module, lora: Lora) -> None:
    layers, attention = _targets(model, lora)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if layers:
        _add_to_layers(model, lora, layers)
    for name, projections in attention.items():
        owner, _, last = name.rpartition(".")
        base: Any = model.get_submodule(name)
        setattr(model.get_submodule(owner), last, LoraAttention(base, lora, projections))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or (name.startswith("logit_") and name in trained))


def _add_to_layers(model: nn.Module, lora: Lora, targets: list[str]) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("model.lora needs peft; install it with: pip install -e '.[lora]'") from error
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scale * lora.rank,  # type: ignore[arg-type]  # any number will do
        lora_dropout=lora.dropout,
        target_modules="|".join(re.escape(name) for name in targets),  # matched as a whole
    )
    inject_adapter_in_model(config, model)


def _targets(model: nn.Module, lora: Lora) -> tuple[list[str], dict[str, list[str]]]:
    """Full names of the linear layers that get an adapter, and attention -> its projections that do."""
    free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found: list[str] = []
    attention: dict[str, list[str]] = {}

    def wanted(name: str) -> bool:
        if lora.targets is None:
            return block_of(f"{name}.") is not None
        return any(name == target or name.endswith(f".{target}") for target in lora.targets)

    for name, module in model.named_modules():
        if tower_of(name) is None or not any(one.startswith(f"{name}.") for one in free):
            continue
        if isinstance(module, nn.MultiheadAttention) and _takes_adapters(name, module):
            chosen = [part for part in _PROJECTIONS if wanted(name) or wanted(f"{name}.{part}")]
            if chosen:
                attention[name] = chosen
        elif isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear) and wanted(name):
            found.append(name)  # the other kind is an attention's output, which it uses as a mere tensor
    if not found and not attention:
        raise UserError(
            f"model.lora.targets={list(lora.targets) if lora.targets else None}: no linear layer that model.freeze "
            "leaves to train has such a name."
        )
    return found, attention


def _takes_adapters(name: str, attention: nn.MultiheadAttention) -> bool:
    """Whether an attention is that of a block of open_clip's own towers: of a sequence to itself, and nothing more."""
    plain = attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn
    return plain and not attention.dropout and block_of(f"{name}.") is not None and "cross_attn" not in name


def _still_what_is_frozen(model: nn.Module) -> None:
    """Let what is frozen compute as in evaluation: fixed running statistics, and no dropout."""
    for module in model.children():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.register_forward_pre_hook(_rest)
        else:
            _still_what_is_frozen(module)


def _rest(module: nn.Module, _: Any) -> None:
    if module.training:
        module.eval()


def merge_adapters(weights: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """A model's plain weights from those with adapters: W + scale B A, under the names that the model has without.

    Args:
        weights: a state dict with `base_layer`, `lora_A` and `lora_B`, of peft or of `LoraAttention`.
        scale: alpha / rank.
    """
    merged = {name: tensor for name, tensor in weights.items() if ".lora_" not in name}
    for name, a in weights.items():
        owner, _, which = name.removesuffix(".weight").partition(".lora_A.")
        if which:
            base = f"{owner}.base_layer.{_WEIGHT[which]}"
            b = weights[f"{owner}.lora_B.{which}.weight"]
            # In float64, so that a merge rounds once.
            merged[base] = (merged[base].double() + scale * (b.double() @ a.double())).to(merged[base].dtype)
    return {name.replace(".base_layer.", "."): tensor for name, tensor in merged.items()}
