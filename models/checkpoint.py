"""Checkpoints: complete or absent, and safe to load.

A checkpoint is one file, `checkpoints/step-<number>.pt`, written beside its place and moved there. It holds tensors
and plain values alone and is read with `weights_only=True`, so that loading never runs code from it.
"""

import hashlib
import json
import os
import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from balance.errors import UserError
from balance.files import whole_file, write_whole

BEST = "best.json"
"""Which checkpoint was the best by `checkpoint.best`."""
SUMS = "sha256sums.txt"
"""The checkpoints' hashes, in the form that `sha256sum --check` reads."""
_verified: dict[Path, tuple[int, int]] = {}  # size and time of the files that this process has looked through
_SUM = re.compile(r"([0-9a-f]{64})  (\S+)")
_NAME = re.compile(r"step-(\d+)\.pt")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write a checkpoint atomically, then its hash."""
    path = checkpoint_path(folder, step)
    with whole_file(path) as part:
        with open(part, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        total = _sha256(part)
    note_sum(path, total)
    return path


def note_sum(path: Path, total: str | None = None) -> None:
    """Keep a file's hash beside it, among those of the other files that are still there.

    Args:
        path: the file.
        total: its SHA-256, if that is known.
    """
    sums = {**_sums(path.parent), path.name: total or _sha256(path)}
    kept = {name: known for name, known in sums.items() if (path.parent / name).is_file()}
    write_whole(path.parent / SUMS, "".join(f"{known}  {name}\n" for name, known in sorted(kept.items())))


def verify_checkpoint(path: Path) -> None:
    """Check a file of torch's format as a whole, which torch itself does not: a flipped bit would pass unseen.

    By its hash, where one was kept beside it; otherwise by the checksums inside the archive. Files of another format
    have neither and pass.

    Raises:
        UserError: the file is damaged, or packed, which torch never does and which could unpack to any size.
    """
    state = path.stat()
    if _verified.get(path.absolute()) == (state.st_size, state.st_mtime_ns):
        return
    _verify(path)
    _verified[path.absolute()] = (state.st_size, state.st_mtime_ns)


def _verify(path: Path) -> None:
    known = _sums(path.parent).get(path.name)
    if known is not None:
        if _sha256(path) != known:
            raise UserError(f"The checkpoint {path} is damaged: it is not what was written ({SUMS} beside it).")
        return
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                raise UserError(
                    f"{path} is a TorchScript archive, which holds code, so it is refused; save its state dict."
                )
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise UserError(f"The file {path} is packed, which torch's own files are not; it is refused.")
            damaged = archive.testzip()
    except UserError:
        raise
    except Exception as error:  # zipfile raises BadZipFile, EOFError, struct.error and more on damage
        raise UserError(f"The file {path} is damaged ({type(error).__name__}: {str(error)[:100]}).") from error
    if damaged is not None:
        raise UserError(f"The file {path} is damaged: the checksum of {damaged} in it is wrong.")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    """The hashes that were kept, by file name."""
    try:
        text = (folder / SUMS).read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    return {found[2]: found[1] for line in text.splitlines() if (found := _SUM.fullmatch(line))}


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
        verify_checkpoint(path)
        return torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except UserError:
        raise
    except UnpicklingError as error:
        with open(path, "rb") as file:
            head = file.read(2)
        if head[:1] != b"\x80" and head != b"PK":  # neither a pickle nor an archive that could hold one
            raise UserError(f"The checkpoint {path} can't be read: it is not in torch's format.") from error
        raise UserError(
            f"The checkpoint {path} holds more than tensors and plain values, and reading that would run code from "
            "it, so it is refused."
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, OSError
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The checkpoint {path} can't be read ({type(error).__name__}: {reason}).") from error


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a folder that is whole, and why newer ones are not, a sentence each.

    Raises:
        UserError: there are some, and all are damaged.
    """
    damaged = []
    for path in reversed(list_checkpoints(folder)):
        try:
            load_checkpoint(path, mmap=True)
        except UserError as error:
            damaged.append(str(error))
            continue
        return path, damaged
    if damaged:
        raise UserError(
            f"{damaged[0]} So are all others in {folder}; restore one from a copy, or start the run anew with "
            "overwrite=true."
        )
    return None, []


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


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint in a folder that was the best by `checkpoint.best`; None if none was chosen."""
    try:
        chosen = checkpoint_path(folder, int(json.loads((folder / BEST).read_text())["step"]))
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return chosen if chosen.is_file() else None
