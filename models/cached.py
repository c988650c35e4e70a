"""Frozen towers whose outputs are computed once: what trains afterwards are the projections on top of them.

A frozen tower gives the same output for the same input, so the outputs of training pictures and captions can be kept on
disk (`balance.stream.features`) and fed to the model in place of pixels and tokens. `keep_outputs` makes a model accept
both: an output passes through to the projection, anything else goes through the tower, whose answer is remembered for
the next time, as evaluation sets come again after every epoch.
"""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from torch import nn

from balance.common.images import IMAGES_VERSION, BadImage, decode_rgb
from balance.errors import UserError
from balance.files import whole_file
from models.factory import ModelBundle

PICTURES_AT_ONCE = 16  # more do not stay in a core's cache: 94 pictures/s against 54 with 64 (docs/real-towers.md)
TEXTS_AT_ONCE = 64


class KeptTowers:
    """The two frozen towers of a model as functions from raw pictures and texts to outputs, projections left out.

    Args:
        bundle: the model with tokenizer and preprocessing.
        device: where it computes.
        dtype: half-precision format to compute in, as training does where the machine gains from it; None for none.

    Attributes:
        fingerprint: changes with the towers' weights, the preprocessing and the number format.
    """

    def __init__(self, bundle: ModelBundle, device: torch.device, dtype: torch.dtype | None = None) -> None:
        self.bundle, self.device, self.dtype = bundle, device, dtype
        self.visual, self.text = towers(bundle.model)
        self.fingerprint = self._fingerprint()

    def encode_images(self, images: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Outputs of the picture tower, (n, d), with the evaluation transform; NaN for what can't be decoded."""
        pixels, good = [], []
        for row, content in enumerate(images):
            with contextlib.suppress(BadImage):
                pixels.append(self._pixels(content))
                good.append(row)
        found = np.full((len(images), int(self.visual.trunk.num_features)), np.nan, np.float32)
        for start in range(0, len(good), PICTURES_AT_ONCE):
            batch = torch.stack(pixels[start : start + PICTURES_AT_ONCE]).to(self.device)
            with self._computing():
                output = self.visual.trunk(self.bundle.normalise(batch))
            found[good[start : start + PICTURES_AT_ONCE]] = output.float().cpu().numpy()
        return found

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Outputs of the text tower, (n, e)."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of one length together: less padding
        found = np.empty((len(texts), int(self.text.config.hidden_size)), np.float32)
        for start in range(0, len(order), TEXTS_AT_ONCE):
            rows = order[start : start + TEXTS_AT_ONCE]
            tokens = self.bundle.tokenizer([texts[row] for row in rows]).to(self.device)
            with self._computing():
                found[rows] = pooled(self.text, tokens).float().cpu().numpy()
        return found

    def _pixels(self, content: bytes) -> torch.Tensor:
        return torch.from_numpy(np.array(self.bundle.resize(decode_rgb(content)))).permute(2, 0, 1)

    @contextlib.contextmanager
    def _computing(self) -> Any:
        """Evaluation mode, no gradients, and the number format asked for."""
        training = self.bundle.model.training
        self.bundle.model.eval()
        with torch.no_grad(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            yield
        self.bundle.model.train(training)

    def _fingerprint(self) -> str:
        facts = {
            "mean": self.bundle.mean,
            "std": self.bundle.std,
            "resize": str(self.bundle.resize),
            "context": getattr(self.bundle.tokenizer, "context_length", None),
            "dtype": str(self.dtype),
            "images": IMAGES_VERSION,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        for tower in (self.visual.trunk, self.text.transformer):
            for name, tensor in tower.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def towers(model: nn.Module) -> tuple[TimmModel, HFTextEncoder]:
    """The two towers of a model whose outputs can be kept.

    Raises:
        UserError: they are of another kind, or not frozen.
    """
    visual, text = getattr(model, "visual", None), getattr(model, "text", None)
    if not isinstance(visual, TimmModel) or not isinstance(text, HFTextEncoder):
        raise UserError(
            "model.keep_outputs needs a timm picture tower and a Hugging Face text tower, as model=lite has them."
        )
    trained = [
        name for part in (visual.trunk, text.transformer) for name, p in part.named_parameters() if p.requires_grad
    ]
    if trained:
        raise UserError(
            f"model.keep_outputs needs both towers frozen; {len(trained)} parameters train, such as {trained[0]}."
        )
    return visual, text


def pooled(text: HFTextEncoder, tokens: torch.Tensor) -> torch.Tensor:
    """The text tower without its projection, (n, e), for tokens (n, length); columns of padding alone are cut off."""
    mask = (tokens != text.config.pad_token_id).long()
    length = max(1, int(mask.sum(dim=1).max()))
    tokens, mask = tokens[:, :length], mask[:, :length]
    return text.pooler(text.transformer(input_ids=tokens, attention_mask=mask), mask)


def keep_outputs(model: nn.Module, folder: Path | None = None) -> None:
    """Let a model take outputs of its frozen towers, (n, d) floats, in place of pixels and tokens.

    Weights and their names stay as they are. Pixels and tokens still work, and the towers' answers to them are kept.

    Args:
        model: with frozen towers.
        folder: where answers are kept for other runs; None keeps them in memory alone.
    """
    visual, text = towers(model)
    trunk = Remembered(visual.trunk.forward, lambda given: given.ndim == 2, folder and folder / "image")
    below = Remembered(
        lambda tokens: pooled(text, tokens), lambda given: given.is_floating_point(), folder and folder / "text"
    )
    visual.trunk.forward = trunk
    text.forward = lambda tokens: text.proj(below(tokens))


class Remembered:
    """A function of one tensor, row by row, that is computed once for each row; what is a result passes through.

    Args:
        function: from a batch of inputs to a batch of outputs.
        is_output: whether a tensor is a result.
        folder: where results are kept beyond this process, if they are.
    """

    def __init__(
        self,
        function: Callable[[torch.Tensor], torch.Tensor],
        is_output: Callable[[torch.Tensor], bool],
        folder: Path | None = None,
    ) -> None:
        self.function, self.is_output, self.folder = function, is_output, folder
        self.known: dict[bytes, torch.Tensor] = {}
        for path in sorted(folder.glob("*.npz")) if folder is not None else ():
            self._load(path)

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        """The function's result, (n, d), on the device of the input."""
        if self.is_output(given):
            return given
        keys = [hashlib.blake2b(row.numpy().data, digest_size=16).digest() for row in given.cpu().contiguous()]
        new = [row for row, key in enumerate(keys) if key not in self.known]
        if new:
            self._compute([keys[row] for row in new], given[new])
        return torch.stack([self.known[key] for key in keys]).to(given.device)

    def _compute(self, keys: list[bytes], given: torch.Tensor) -> None:
        with torch.no_grad():
            found = torch.cat([self.function(part).float().cpu() for part in given.split(PICTURES_AT_ONCE)])
        self.known.update(zip(keys, found, strict=True))
        if self.folder is None:
            return
        joined = b"".join(keys)
        path = self.folder / f"{hashlib.blake2b(joined, digest_size=16).hexdigest()}.npz"
        with whole_file(path) as part, open(part, "wb") as file:
            np.savez(file, keys=np.frombuffer(joined, np.uint8).reshape(len(keys), -1), outputs=found.numpy())

    def _load(self, path: Path) -> None:
        with contextlib.suppress(ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile):  # damaged: computed anew
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
                keys, outputs = kept["keys"], torch.from_numpy(kept["outputs"])
            self.known.update((key.tobytes(), row) for key, row in zip(keys, outputs, strict=True))
