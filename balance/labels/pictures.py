"""Attributes and concepts from the pictures themselves: zero-shot, with prompts and any model that embeds both sides.

A label here is a model's guess at how a person in the picture would be perceived; it carries that model's own bias.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import yaml
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from balance.errors import UserError
from balance.labels.words import WORDS_FOLDER
from balance.stream.samples import Sample

PROMPTS_FOLDER = WORDS_FOLDER.parent / "prompts"
_CONFIG_KEYS = {"kind", "prompts", "model", "batch_size", "threshold", "soft", "fallback", "prefix"}
_PROMPT_KEYS = {
    "attribute",
    "concepts",
    "positive",
    "values",
    "none",
    "scale",
    "shift",
    "threshold",
    "soft",
    "proxy",
    "about",
    "source",
    "accuracy",
}
POOR = 0.8
"""Accuracy of labels by images below which they are worth a warning: chance is 0.5 for two values."""


class Encoder(Protocol):
    """A two-tower model as this file sees it."""

    fingerprint: str
    """Names the model and its weights."""

    def encode_images(self, images: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Encoded pictures to (n, d) unit vectors; a row of NaN for a picture that can't be decoded."""

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Texts to (n, d) unit vectors."""


class PictureSource:
    """Zero-shot labels by prompts from YAML.

    Each value's embedding is the normalised mean of its prompts'. With cosines c:

    - an attribute: p = softmax(scale * c + shift) over its values and, where there are prompts for `none` (no person to
      be seen), over these too. Unknown where `none` is the likeliest. A value is known where its p, without `none`,
      reaches `threshold`; with `soft: true` p itself is the attribute.
    - a concept: p = sigmoid(scale * (c - c_none) + shift), 1 where p reaches `threshold`.

    `scale` and `shift` are what makes p a calibrated probability: fit them with `fit_calibration` on labelled pictures.
    """

    needs = frozenset({"image"})

    def __init__(self, config: Mapping[str, Any], encoder: Encoder) -> None:
        if unknown := set(config) - _CONFIG_KEYS:
            raise UserError(
                f"attributes: a pictures source has no key {min(unknown)!r}; known are "
                f"{', '.join(sorted(_CONFIG_KEYS))}."
            )
        self._encoder = encoder
        self._spec = load_prompts(str(config.get("prompts") or ""))
        self._batch_size = int(config.get("batch_size", 64))
        self._soft = bool(config.get("soft", self._spec.get("soft", False)))
        self._threshold = float(config.get("threshold", self._spec.get("threshold", 0.8)))
        self.scale, self.shift = float(self._spec.get("scale", 100.0)), float(self._spec.get("shift", 0.0))
        if not 0.5 <= self._threshold < 1:
            raise UserError(f"attributes: threshold={self._threshold:g} must lie in [0.5, 1).")
        names = list(map(str, self._spec["values"]))
        self._is_attribute = "attribute" in self._spec
        prefix = str(config.get("prefix", ""))
        self.s_names: list[str] = []
        self.y_names: list[str] = [] if self._is_attribute else [prefix + name for name in names]
        self.proxies = list(self.y_names) if self._spec.get("proxy") else []
        self._positive = names.index(self._spec["positive"]) if self._spec.get("positive") else None
        if self._is_attribute:
            one_hot = [f"{self._spec['attribute']}={name}" for name in names]
            self.s_names = one_hot if self._positive is None else [names[self._positive]]
        self._texts: npt.NDArray[np.float32] | None = None

    def describe(self) -> dict[str, Any]:
        """What decides the result, as plain data."""
        prompts = {key: value for key, value in self._spec.items() if key != "accuracy"}
        return {"kind": "pictures", "version": 2, "model": self._encoder.fingerprint, "prompts": prompts, "soft":
        self._soft,
                "threshold": self._threshold}  # fmt: skip

    def annotate(self, samples: Sequence[Sample]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """See `Annotator.annotate`; pictures that can't be decoded are unknown."""
        parts = [self._cosines(samples[i : i + self._batch_size]) for i in range(0, len(samples), self._batch_size)]
        cosines = np.concatenate(parts) if parts else np.zeros((0, len(self._spec["values"]) + 1), np.float32)
        if self._is_attribute:
            return self._attribute(cosines), np.zeros((len(samples), 0), np.uint8)
        p = expit(self.scale * (cosines[:, :-1] - cosines[:, -1:]) + self.shift)
        return np.zeros((len(samples), 0), np.float32), (p >= self._threshold).astype(np.uint8)  # NaN compares as 0

    def margins(self, samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
        """What calibration is fitted to.

        Returns:
            (n, 1) cosine of the positive value minus that of the other, or (n, c) of each concept minus that of `none`.

        Raises:
            UserError: an attribute of several values, which has no single margin.
        """
        parts = [self._cosines(samples[i : i + self._batch_size]) for i in range(0, len(samples), self._batch_size)]
        cosines = np.concatenate(parts).astype(np.float64)
        if not self._is_attribute:
            return cosines[:, :-1] - cosines[:, -1:]
        if self._positive is None:
            raise UserError("Calibration needs prompts with 'positive', or concepts.")
        return cosines[:, [self._positive]] - cosines[:, [1 - self._positive]]

    def _cosines(self, samples: Sequence[Sample]) -> npt.NDArray[np.float32]:
        """(n, values + 1) cosines, the last column for `none` (NaN where there are no such prompts)."""
        if self._texts is None:
            groups = [*self._spec["values"].values(), self._spec.get("none") or []]
            flat = self._encoder.encode_texts([prompt for group in groups for prompt in group])
            ends = np.cumsum([len(group) for group in groups])
            means = [
                flat[end - len(group) : end].mean(axis=0) for group, end in zip(groups, ends, strict=True) if group
            ]
            self._texts = np.stack([mean / np.linalg.norm(mean) for mean in means]).astype(np.float32)
        cosines = self._encoder.encode_images([sample.image for sample in samples]) @ self._texts.T
        if not self._spec.get("none"):
            cosines = np.concatenate([cosines, np.full((len(cosines), 1), np.nan, np.float32)], axis=1)
        return cosines

    def _attribute(self, cosines: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        values, none = self.scale * cosines[:, :-1].astype(np.float64), self.scale * cosines[:, -1]
        if self._positive is not None:
            values[:, self._positive] += self.shift
        p = np.exp(values - values.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        known = ~np.isnan(p).any(axis=1) & ~(none > values.max(axis=1))
        out = p if self._soft else (p == p.max(axis=1, keepdims=True)).astype(np.float64)
        if not self._soft:
            known &= p.max(axis=1) >= self._threshold
        if self._positive is not None:
            out = out[:, [self._positive]]
        out[~known] = np.nan
        return out.astype(np.float32)


def load_prompts(name: str) -> dict[str, Any]:
    """Read prompts by name (in `balance/labels/prompts`) or by path.

    Raises:
        UserError: no such file, or one that breaks the rules of the format.
    """
    path = PROMPTS_FOLDER / f"{name}.yaml" if not name.endswith((".yaml", ".yml")) else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROMPTS_FOLDER.glob("*.yaml")))
        raise UserError(
            f"There are no prompts {name!r} ({path}); built in are: {known}; or give a path that ends in .yaml."
        )
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    values = spec.get("values") if isinstance(spec, dict) else None
    if not isinstance(values, dict) or ("attribute" in spec) == ("concepts" in spec):
        raise UserError(f"The prompts {path} need 'values:' and either 'attribute:' or 'concepts:'.")
    if unknown := set(spec) - _PROMPT_KEYS:
        raise UserError(
            f"The prompts {path} have the unknown key {min(unknown)!r}; known are {', '.join(sorted(_PROMPT_KEYS))}."
        )
    if any(not isinstance(prompts, list) or not prompts for prompts in values.values()):
        raise UserError(f"The prompts {path}: each value needs a list of at least one prompt.")
    if "concepts" in spec and not spec.get("none"):
        raise UserError(f"The prompts {path}: concepts need prompts for 'none' to be compared with.")
    positive = spec.get("positive")
    if positive is not None and (positive not in values or len(values) != 2 or "concepts" in spec):
        raise UserError(f"The prompts {path}: 'positive' must be one of exactly two values of an attribute.")
    accuracy = spec.get("accuracy")
    if accuracy is not None and not (isinstance(accuracy, int | float) and 0 <= accuracy <= 1):
        raise UserError(f"The prompts {path}: accuracy={accuracy} must lie in [0, 1].")
    return spec


def doubtful_labels(attributes: Mapping[str, Any]) -> list[str]:
    """A sentence for each source of labels by images whose accuracy is poor, or was never measured.

    Args:
        attributes: configuration group `attributes`.
    """
    found = []
    for source in attributes.get("sources") or ():
        if not isinstance(source, Mapping) or source.get("kind") != "pictures":
            continue
        name = str(source.get("prompts") or "")
        try:
            accuracy = load_prompts(name).get("accuracy")
        except UserError:
            if attributes.get("files"):  # made elsewhere, where the prompts were
                continue
            raise
        if accuracy is None:
            found.append(
                f"How often the labels by images with the prompts {name} are right is not known: measure it with "
                "scripts/calibrate.py, and write its accuracy into the prompts' file."
            )
        elif accuracy < POOR:
            found.append(
                f"The labels by images with the prompts {name} are right for {accuracy:.1%} of labelled images; take a "
                "better model or other prompts, or leave that source out: balancing would follow its mistakes."
            )
    return found


def fit_calibration(difference: npt.NDArray[np.float64], label: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Fit `scale` and `shift` of p = sigmoid(scale * difference + shift) by maximum likelihood.

    Source: Platt 1999, with his targets.

    Args:
        difference: (n,) cosine of the positive minus that of the other value (or of `none`).
        label: (n,) 0 or 1.

    Returns:
        scale, shift.

    Raises:
        UserError: fewer than one example of either kind.
    """
    positives, negatives = float((label == 1).sum()), float((label == 0).sum())
    if not positives or not negatives:
        raise UserError("Calibration needs labelled pictures of both kinds.")
    # Platt's targets keep separable data from asking for an infinite scale.
    target = np.where(label == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    spread = float(difference.std()) or 1.0
    centred = (difference - difference.mean()) / spread

    def loss(x: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        logit = x[0] * centred + x[1]
        value = -(target * log_expit(logit) + (1 - target) * log_expit(-logit)).mean()
        slope = expit(logit) - target
        return float(value), np.array([(slope * centred).mean(), slope.mean()])

    a, b = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B").x
    return float(a / spread), float(b - a * difference.mean() / spread)
