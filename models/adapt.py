"""Train only a part of a model: frozen towers and blocks, or low-rank adapters beside frozen weights (LoRA)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from balance.common.allowed import check_values, number
from balance.errors import UserError
from models.layers import TOWERS, block_of, depths, tower_of

_NO_ATTENTION = " (the attention of open_clip's own towers holds its weights itself and takes no adapter)"


@dataclass(frozen=True)
class Lora:
    """Settings of the adapters.

    Attributes:
        rank: inner size of an adapter's two matrices.
        alpha: adapters count alpha / rank times.
        dropout: on an adapter's input.
        targets: names of linear layers, or the ends of names, such as `c_fc`; None: all linear layers of blocks.
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


def _add_adapters(model: nn.Module, lora: Lora) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("model.lora needs peft; install it with: pip install -e '.[lora]'") from error
    targets = _targets(model, lora)
    kept = [parameter for name, parameter in model.named_parameters() if name.startswith("logit_")]
    trained = [parameter.requires_grad for parameter in kept]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scale * lora.rank,  # type: ignore[arg-type]  # any number will do
        lora_dropout=lora.dropout,
        target_modules="|".join(re.escape(name) for name in targets),  # matched as a whole
    )
    inject_adapter_in_model(config, model)
    for parameter, was in zip(kept, trained, strict=True):
        parameter.requires_grad_(was)


def _targets(model: nn.Module, lora: Lora) -> list[str]:
    """Full names of the modules that get an adapter."""
    free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found: list[str] = []
    attention: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            # It holds its weights itself; peft's wrapper around it adds the output's adapter twice (its pull request
            # 3774), and adds and subtracts the product in every step, so that frozen weights drift by rounding.
            attention.append(name)
        if not isinstance(module, nn.Linear) or tower_of(name) is None:
            continue
        if lora.targets is None:
            wanted = block_of(f"{name}.") is not None
        else:
            wanted = any(name == target or name.endswith(f".{target}") for target in lora.targets)
        inside = any(name.startswith(f"{other}.") for other in attention)  # used by attention as a mere tensor
        if wanted and not inside and any(one.startswith(f"{name}.") for one in free):
            found.append(name)
    if not found:
        raise UserError(
            f"model.lora.targets={list(lora.targets) if lora.targets else None}: no linear layer that model.freeze "
            f"leaves to train has such a name{_NO_ATTENTION if attention else ''}."
        )
    return found


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
        weights: a state dict with peft's `base_layer`, `lora_A` and `lora_B`.
        scale: alpha / rank.
    """
    merged = {name: tensor for name, tensor in weights.items() if ".lora_" not in name}
    for name, a in weights.items():
        if name.endswith(".lora_A.default.weight"):
            owner = name.removesuffix(".lora_A.default.weight")
            base = f"{owner}.base_layer.weight"
            b = weights[f"{owner}.lora_B.default.weight"]
            # In float64, so that a merge rounds once.
            merged[base] = (merged[base].double() + scale * (b.double() @ a.double())).to(merged[base].dtype)
    return {name.replace(".base_layer.", "."): tensor for name, tensor in merged.items()}
