"""How many floating-point operations training takes, and how many a GPU can do: the two sides of its utilisation."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from balance.errors import UserError
from models.factory import create

# Dense bf16 or fp16 operations per second without sparsity, from NVIDIA's data sheets; fp32 is left to --peak-tflops.
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "T4": 65e12,
    "V100": 125e12,
}


def train_flops(name: str, config: Mapping[str, Any] | None) -> float:
    """Operations per image-text pair of a training step: three times those of the forward pass (Kaplan et al. 2020)."""
    bundle = create(name, config)
    pixels = torch.zeros(1, 3, bundle.image_size, bundle.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        bundle.model(pixels, bundle.tokenizer(["a photo"]))
    return 3.0 * counter.get_total_flops()


def peak_flops(precision: str, given: float | None) -> float:
    """Operations per second of this machine's GPU.

    Raises:
        UserError: the GPU is not known, or computes in fp32.
    """
    if given is not None:
        return given * 1e12
    name = torch.cuda.get_device_name()
    peak = next((rate for known, rate in PEAKS.items() if known in name), None)
    if peak is None or precision == "fp32":
        raise UserError(f"The peak rate of {name} in {precision} is not known; give it with --peak-tflops.")
    return peak
