"""Which number format to compute in, and which attention kernel goes with it."""

import contextlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from balance.errors import UserError

MODES = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` stands for.

    Raises:
        UserError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        raise UserError(f"device={device} is not known; it is auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no GPU here; use device=cpu or device=auto.")
    return torch.device(device)


def resolve_precision(precision: str, device: torch.device) -> str:
    """The format that `auto` stands for: bf16 where the machine has instructions for it, else fp32.

    Raises:
        UserError: an unknown format, or fp16 on a CPU.
    """
    if precision == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "bf16" if _cpu_has_bf16() else "fp32"
    if precision not in MODES:
        raise UserError(f"precision={precision} is not known; it is auto, {', '.join(MODES)}.")
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision=fp16 needs a GPU; use bf16 or fp32 on a CPU.")
    return precision


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 natively; torch tells by private functions only, which may go."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """The attention kernels to use while training: on a CPU plain matrix products beat the fused kernel in bf16."""
    if device.type == "cpu":
        return sdpa_kernel([SDPBackend.MATH])
    return contextlib.nullcontext()
