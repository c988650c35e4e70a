"""All evaluators of a configuration, checked before training and run after every epoch."""

import importlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from balance.errors import UserError
from eval.embed import Embedder
from eval.metric import Metric
from eval.sets import EvalSet, MissingSet, load_set
from models.factory import ModelBundle


class Evaluator(Protocol):
    """One evaluation: built (and checked) from its name, options and sets, called with a model's features.

    With the option `set` an evaluator is given that `EvalSet`; with `sets` (role -> set) a dict of them by role; with
    neither an empty dict.
    """

    name: str

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""


# Where each kind is. A kind of one's own is given as `package.module:Class`.
KINDS = {
    "parity": "eval.parity:Parity",
    "association": "eval.association:Association",
    "zeroshot": "eval.zeroshot:ZeroShot",
    "retrieval": "eval.retrieval:Retrieval",
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
        kind = find_kind(name, options.get("kind"))
        roles = _roles(name, options, sets)
        for wanted in roles.values():
            if wanted in suite.sets or wanted in missing:
                continue
            try:
                suite.sets[wanted] = load_set(wanted, sets[wanted])
            except MissingSet as error:
                if wanted == "held_out":  # the user named it for this run, so that it must be there
                    raise
                missing[wanted] = str(error)
        absent = [missing[wanted] for wanted in roles.values() if wanted in missing]
        if absent:
            suite.skipped.append(f"{name} is skipped: {absent[0]}")
            continue
        data = {role: suite.sets[wanted] for role, wanted in roles.items()}
        suite.evaluators.append(kind(name, options, data["set"] if "set" in options else data))
    return suite


def find_kind(name: str, kind: Any) -> Any:
    """The class of a kind of evaluator.

    Raises:
        UserError: there is no such kind.
    """
    where = KINDS.get(kind, kind)
    module, _, attribute = str(where).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"eval.evaluators.{name}.kind={kind} is not known; it is one of {', '.join(KINDS)}, or module:Class."
        ) from error


def _roles(name: str, options: Mapping[str, Any], sets: Mapping[str, Any]) -> dict[str, str]:
    """The names of the sets that an evaluator needs, by role."""
    roles = {"set": options["set"]} if "set" in options else dict(options.get("sets") or {})
    for role, wanted in roles.items():
        if wanted not in sets:
            where = "set" if role == "set" else f"sets.{role}"
            raise UserError(
                f"eval.evaluators.{name}.{where}={wanted} is not one of eval.sets ({', '.join(sets) or 'none'})."
            )
    return roles
