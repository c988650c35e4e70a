"""What a suite would measure, known before there is a model: its evaluators are run on features of chance.

So a stopping rule or a best checkpoint that names what nobody measures is told before the run begins.
"""

import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from balance.errors import UserError
from eval.embed import Embedder
from eval.runner import Evaluator, Suite
from eval.sets import EvalSet
from models.factory import ModelBundle
from models.training.distributed import Processes

SHOWN = 8  # names in a sentence


class ChanceEmbedder(Embedder):
    """Notes what evaluators ask for, and gives them features of chance.

    Args:
        bundle: the model that is stood in for; None where it is not known yet.

    Attributes:
        pictures: keys of the pictures asked for.
        said: the texts asked for, in order.
    """

    def __init__(self, bundle: ModelBundle | None = None) -> None:
        self.bundle = bundle  # type: ignore[assignment]
        self.name, self.batch_size, self.processes = "the model", 256, Processes(alone=True)
        self.device, self.truncated = torch.device("cpu"), []
        self.pictures: set[bytes] = set()
        self.said: dict[str, None] = {}

    @property
    def scale(self) -> float:
        """That of a model at its start."""
        return 1 / 0.07

    def images(self, data: EvalSet) -> torch.Tensor:
        """Features of chance for the pictures of a set."""
        self.pictures.update(data.picture_keys())
        return _chance(len(data))

    def prepare(self, sets: Any) -> None:
        """Count the pictures of some sets."""
        for data in sets:
            self.pictures.update(data.picture_keys())

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Features of chance for texts."""
        self.said.update(dict.fromkeys(texts))
        return _chance(len(texts))


def _chance(n: int) -> torch.Tensor:
    return functional.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(n)), dim=1)


def check_measured(named: Iterable[tuple[str, str]], suite: Suite) -> None:
    """Check that a suite measures what a run is steered by.

    Only the evaluators that are named are tried; one that can't work on features of chance is left to the first
    evaluation.

    Args:
        named: (where it is named, metric).
        suite: the run's evaluators.

    Raises:
        UserError: one is not measured; the sentence says why, or what is.
    """
    evaluators = {evaluator.name: evaluator for evaluator in suite.evaluators}
    for where, metric in named:
        if metric == "eval/seconds":
            continue
        owner = metric.partition("/")[0]
        if owner in evaluators:
            known = _names(evaluators[owner])
            if known is None or metric in known:
                continue
            why = _nearest(metric, known, f"{owner} measures")
        else:
            lacking = suite.absent.get(owner)
            why = (
                _nearest(owner, list(evaluators), "its evaluators are")
                if lacking is None
                else f"{owner} is skipped: {lacking}"
            )
        raise UserError(f"{where} is not measured by this run; {why}")


def _names(evaluator: Evaluator) -> list[str] | None:
    """Names of the metrics that an evaluator gives; None where it can't be tried."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chance, such as a correlation of constants
            return [metric.name for metric in evaluator(ChanceEmbedder(), np.random.default_rng(0), 2)]
    except Exception:  # an evaluator may need more of an embedder than can be pretended
        return None


def _nearest(name: str, names: list[str], otherwise: str) -> str:
    near = get_close_matches(name, names, n=3, cutoff=0.7)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = ", ..." if len(names) > SHOWN else ""
    return f"{otherwise} {', '.join(names[:SHOWN]) or 'none'}{more}."
