"""The picture model that `balance/labels/pictures.py` is handed: any open_clip model, in bf16 where that is faster."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.functional import pil_to_tensor

from balance.common.images import BadImage, decode_rgb
from balance.errors import UserError
from balance.labels.annotators import EncoderFactory
from models.factory import ModelBundle, create
from models.start import FROM
from models.training.precision import resolve_device, resolve_precision

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class OpenClipEncoder:
    """Both towers of an open_clip model, for zero-shot labels.

    Attributes:
        fingerprint: hash of the weights: a model of the same name with other weights gives other labels.
    """

    def __init__(self, bundle: ModelBundle, device: torch.device, precision: str) -> None:
        self._bundle, self._device = bundle, device
        self._dtype = _DTYPES[precision]
        digest = hashlib.sha256(precision.encode())
        for name, tensor in sorted(bundle.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else b""
            )
        self.fingerprint = digest.hexdigest()[:32]
        bundle.model.eval()

    @torch.inference_mode()
    def encode_images(self, images: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Encoded pictures to (n, d) unit vectors; NaN for those that can't be decoded."""
        pixels = [self._pixels(image) for image in images]
        good = [i for i, pixel in enumerate(pixels) if pixel is not None]
        out = np.full((len(images), self._width), np.nan, np.float32)
        if good:
            batch = torch.stack([pixel for pixel in pixels if pixel is not None]).to(self._device)
            with self._autocast():
                features = self._bundle.model.encode_image(self._bundle.normalise(batch), normalize=True)  # type: ignore[operator]
            out[good] = features.float().cpu().numpy()
        return out

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Texts to (n, d) unit vectors."""
        tokens = self._bundle.trim(self._bundle.tokenizer(list(texts))).to(self._device)
        with self._autocast():
            features = self._bundle.model.encode_text(tokens, normalize=True)  # type: ignore[operator]
        self._width = features.shape[1]
        return features.float().cpu().numpy()

    def _pixels(self, image: bytes) -> torch.Tensor | None:
        try:
            return pil_to_tensor(self._bundle.resize(decode_rgb(image)))
        except BadImage:  # the label is unknown then
            return None

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)


def encoder_factory(device: str = "auto", precision: str = "auto") -> EncoderFactory:
    """What `build_annotator` calls for a pictures source: `model: {name, pretrained, init_from, config, preprocess}`.

    Raises:
        UserError: no such device or precision; and, when called, an unknown model.
    """
    where = resolve_device(device)
    form = resolve_precision(precision, where)

    def make(model: Mapping[str, Any]) -> OpenClipEncoder:
        if unknown := set(model) - {"name", "pretrained", "init_from", "config", "preprocess", "context_length"}:
            raise UserError(f"attributes: a picture model has no key {min(unknown)!r}.")
        model = {"name": FROM, **model} if model.get("init_from") else model
        if not model.get("name"):
            raise UserError("attributes: a pictures source needs model.name, an open_clip model, or model.init_from.")
        torch.manual_seed(0)  # a model without weights is the same one each time
        return OpenClipEncoder(create(device=where, **dict(model)), where, form)

    return make
