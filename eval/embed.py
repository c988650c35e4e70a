"""Features of pictures and texts, each computed once for all evaluators and shared out over the processes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from eval.sets import EvalSet
from models.factory import ModelBundle


class Embedder:
    """Embeds with one state of one model; make a new one when the model has changed.

    Args:
        bundle: the model with tokenizer and preprocessing.
        device: where it computes.
        batch_size: pictures or texts at a time.
        rank: this process.
        world: number of processes; each embeds its share, and all get all.
    """

    def __init__(
        self, bundle: ModelBundle, device: torch.device, batch_size: int = 256, rank: int = 0, world: int = 1
    ) -> None:
        self.bundle, self.device, self.batch_size = bundle, device, batch_size
        self.model: Any = bundle.model  # open_clip's model classes share these methods but no base class
        self.rank, self.world = rank, world
        self._images: dict[str, torch.Tensor] = {}
        self._texts: dict[str, torch.Tensor] = {}

    @property
    def scale(self) -> float:
        """The model's logit scale: scores are `scale * cosine`."""
        return float(self.model.logit_scale.detach().exp())

    @torch.inference_mode()
    def images(self, data: EvalSet) -> torch.Tensor:
        """Normalised features of all pictures of a set, (n, d) float32 on the CPU."""
        if data.name not in self._images:
            rows = range(self.rank, len(data), self.world)
            parts = [
                self.model.encode_image(self.bundle.normalise(pixels.to(self.device))).float().cpu()
                for pixels in data.batches(self.bundle.resize, rows, self.batch_size)
            ]
            self._images[data.name] = F.normalize(self._gather(torch.cat(parts) if parts else None, len(data)), dim=1)
        return self._images[data.name]

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Normalised features of texts, (n, d) float32 on the CPU."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(new), self.batch_size):
            part = new[start : start + self.batch_size]
            tokens = self.bundle.tokenizer(part).to(self.device)
            features = F.normalize(self.model.encode_text(tokens).float().cpu(), dim=1)
            self._texts.update(zip(part, features, strict=True))
        return torch.stack([self._texts[text] for text in texts])

    def prompts(self, classes: Sequence[Sequence[str]]) -> torch.Tensor:
        """One feature per class: the normalised mean over its prompts; (k, d)."""
        return torch.stack([F.normalize(self.texts(prompts).mean(dim=0), dim=0) for prompts in classes])

    def probabilities(self, images: torch.Tensor, classes: Sequence[Sequence[str]]) -> torch.Tensor:
        """Softmax over the classes' scores for each picture; (n, k) float64.

        A bias of the logits is the same for all classes and cancels.
        """
        return (self.scale * images.double() @ self.prompts(classes).double().T).softmax(dim=1)

    def _gather(self, mine: torch.Tensor | None, total: int) -> torch.Tensor:
        """Put the processes' interleaved rows together again."""
        if self.world == 1:
            assert mine is not None
            return mine
        parts: list[torch.Tensor | None] = [None] * self.world
        dist.all_gather_object(parts, mine)
        some = next(part for part in parts if part is not None)
        full = some.new_empty(total, some.shape[1])
        for rank, part in enumerate(parts):
            if part is not None:
                full[rank :: self.world] = part
        return full
