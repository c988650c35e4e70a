"""Evaluators on features that are given, not computed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from eval.sets import EvalSet


class Features:
    """Stands in for `Embedder`: features are given, not computed."""

    def __init__(self, images: Any, texts: dict[str, Sequence[float]], scale: float = 100.0) -> None:
        self._images = F.normalize(torch.as_tensor(np.asarray(images, np.float32)), dim=1)
        self._texts = {text: F.normalize(torch.tensor(row, dtype=torch.float32), dim=0) for text, row in texts.items()}
        self.scale = scale

    def images(self, data: EvalSet) -> torch.Tensor:
        return self._images

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.stack([self._texts[text] for text in texts])

    def prompts(self, classes: Sequence[Sequence[str]]) -> torch.Tensor:
        return torch.stack([F.normalize(self.texts(prompts).mean(dim=0), dim=0) for prompts in classes])

    def probabilities(self, images: torch.Tensor, classes: Sequence[Sequence[str]]) -> torch.Tensor:
        return (self.scale * images.double() @ self.prompts(classes).double().T).softmax(dim=1)


def data(labels: list[dict[str, Any]], captions: list[tuple[str, ...]] | None = None, **extra: Any) -> EvalSet:
    """A set of pictures with these labels."""
    return EvalSet("set", [b""] * len(labels), labels, captions or [()] * len(labels), **extra)


def measure(evaluator: Any, features: Features) -> dict[str, Any]:
    """What an evaluator finds, by name."""
    return {metric.name: metric for metric in evaluator(features, np.random.default_rng(0), 200)}
