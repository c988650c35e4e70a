"""Checkpoints: complete or absent, and safe to load.

A checkpoint is one file, `checkpoints/step-<number>.pt`, written beside its place and moved there. It holds tensors
and plain values alone and is read with `weights_only=True`, so that loading never runs code from it.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch

from balance.errors import UserError
from balance.files import whole_file

_NAME = re.compile(r"step-(\d+)\.pt")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write a checkpoint atomically."""
    path = checkpoint_path(folder, step)
    with whole_file(path) as part, open(part, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    return path


def check_weights(model: torch.nn.Module, step: int) -> None:
    """Check that a model is worth keeping.

    Raises:
        UserError: a weight is not finite.
    """
    wrong = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if wrong:
        raise UserError(
            f"The weights of {wrong[0]} and {len(wrong) - 1} more are not finite after step {step}; lower optim.lr, "
            "set optim.grad_clip, or use precision=fp32, and go on from the last checkpoint with resume=true."
        )


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("step-*.pt") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def load_checkpoint(path: Path, device: str | torch.device = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint.

    Args:
        path: the file.
        device: where its tensors are wanted.
        mmap: leave the tensors in the file until they are looked at.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, OSError
        raise UserError(f"The checkpoint {path} can't be read ({type(error).__name__}: {str(error)[:200]}).") from error


def rng_state() -> dict[str, Any]:
    """The state of torch's generators on this process, which uses one GPU at most."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # asking a GPU's generator would start CUDA, also in a run on the CPU
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` gave."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"].cpu())
