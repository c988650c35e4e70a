"""All evaluators of a configuration, checked before training and run after every epoch."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from balance.errors import UserError
from eval.association import Association
from eval.embed import Embedder
from eval.metric import Metric
from eval.parity import Parity
from eval.retrieval import Retrieval
from eval.sets import EvalSet, load_set
from eval.zeroshot import ZeroShot
from models.factory import ModelBundle


class Evaluator(Protocol):
    """One evaluation of one set: built (and checked) from its options, called with a model's features."""

    name: str

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""


KINDS: dict[str, Callable[[str, dict[str, Any], EvalSet], Evaluator]] = {
    "parity": Parity,
    "association": Association,
    "zeroshot": ZeroShot,
    "retrieval": Retrieval,
}


@dataclass
class Suite:
    """Evaluators with their sets in memory.

    Attributes:
        evaluators: in the order of the configuration.
        sets: by name.
        skipped: what can't run, a sentence each.
        resamples: bootstrap resamples behind an interval.
        batch_size: pictures or texts embedded at a time.
    """

    evaluators: list[Evaluator]
    sets: dict[str, EvalSet]
    skipped: list[str]
    resamples: int
    batch_size: int

    def run(self, bundle: ModelBundle, device: torch.device, rank: int = 0, world: int = 1) -> list[Metric]:
        """Measure a model with all evaluators; every process gets all metrics.

        The model is put into evaluation mode and back. Resampling is seeded, so equal models get equal intervals.
        """
        training = bundle.model.training
        bundle.model.eval()
        start = time.perf_counter()
        embed = Embedder(bundle, device, self.batch_size, rank, world)
        metrics = [
            metric
            for evaluator in self.evaluators
            for metric in evaluator(embed, np.random.default_rng(0), self.resamples)
        ]
        bundle.model.train(training)
        metrics.append(Metric("eval/seconds", time.perf_counter() - start))
        return metrics


def build_suite(
    sets: dict[str, Any],
    evaluators: dict[str, Any],
    resamples: int = 1000,
    batch_size: int = 256,
    retrieval_shards: Any = None,
) -> Suite:
    """Load the sets and check the evaluators.

    A set that is not there is reported and skipped with the evaluators that need it, and the rest still runs.

    Args:
        sets: name -> {path: ...}.
        evaluators: name -> {kind, set, options}.
        resamples: bootstrap resamples behind an interval.
        batch_size: pictures or texts embedded at a time.
        retrieval_shards: image-text shards for one more evaluator, `retrieval`; None for none.

    Raises:
        UserError: an unknown kind, set or option.
    """
    sets, evaluators = dict(sets), dict(evaluators)
    if retrieval_shards is not None:
        sets["held_out"] = {"path": retrieval_shards}
        evaluators.setdefault("retrieval", {"kind": "retrieval", "set": "held_out"})
    suite = Suite([], {}, [], resamples, batch_size)
    missing: dict[str, str] = {}
    for name, options in evaluators.items():
        kind, wanted = options.get("kind"), options.get("set")
        if kind not in KINDS:
            raise UserError(f"eval.evaluators.{name}.kind={kind} is not known; it is one of {', '.join(KINDS)}.")
        if wanted not in sets:
            raise UserError(f"eval.evaluators.{name}.set={wanted} is not one of eval.sets ({', '.join(sets)}).")
        if wanted not in suite.sets and wanted not in missing:
            try:
                suite.sets[wanted] = load_set(wanted, sets[wanted]["path"])
            except UserError as error:
                if wanted == "held_out":  # the user named it for this run, so that it must be there
                    raise
                missing[wanted] = str(error)
        if wanted in missing:
            suite.skipped.append(f"{name} is skipped: {missing[wanted]}")
        else:
            suite.evaluators.append(KINDS[kind](name, options, suite.sets[wanted]))
    return suite
