"""All evaluators of a configuration, checked before training and run after every epoch."""

import importlib
import sys
import time
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from balance.common.metric import Metric
from balance.common.structure import expecting
from balance.errors import UserError
from eval.embed import Embedder
from eval.features import FeatureStore
from eval.pixels import KEEP_BYTES, Pixels
from eval.sets import EvalSet, HeldOut, MissingSet, load_set
from models.factory import ModelBundle
from models.training.distributed import Processes


class Evaluator(Protocol):
    """One evaluation: built (and checked) from its name, options and sets, called with a model's features.

    With the option `set` an evaluator is given that `EvalSet`; with `sets` (role -> set) a dict of them by role; with
    neither an empty dict. With the class attribute `partial = True` it is built although some of its `sets` are
    missing, and is given those that are there. It may have two more attributes: `skipped`, sentences on parts of it
    that can't run, set when it is built; and `pages`, title -> HTML or SVG fragment for the suite's page, set when it
    is called.
    """

    name: str

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""


HELD_OUT = "held_out"

# Where each kind is. A kind of one's own is given as `package.module:Class`.
KINDS = {
    "eat": "eval.evaluators.eat:Eat",
    "impressions": "eval.evaluators.impressions:Impressions",
    "portraits": "eval.evaluators.portraits:Portraits",
    "parity": "eval.evaluators.parity:Parity",
    "association": "eval.evaluators.association:Association",
    "zeroshot": "eval.evaluators.zeroshot:ZeroShot",
    "retrieval": "eval.evaluators.retrieval:Retrieval",
    "retrieval_bias": "eval.evaluators.retrieval_bias:RetrievalBias",
    "hypodescent": "eval.evaluators.hypodescent:Hypodescent",
}


@dataclass
class Suite:
    """Evaluators with their sets in memory.

    Attributes:
        evaluators: in the order of the configuration.
        sets: by name.
        skipped: what can't run and which samples are left out, a sentence for each cause.
        absent: evaluators that can't run -> why.
        resamples: bootstrap resamples behind an interval.
        batch_size: pictures or texts embedded at a time.
        pixels: decodes the pictures, and keeps them from one epoch or model to the next.
        pages: evaluator -> title -> HTML or SVG fragment, of the last model measured.
        truncated: texts that the last model's tokenizer cut.
        seconds: of the last run, in all and by part: `embed` for all stimuli, and each evaluator without them.
    """

    evaluators: list[Evaluator]
    sets: dict[str, EvalSet]
    skipped: list[str]
    resamples: int
    batch_size: int
    absent: dict[str, str] = field(default_factory=dict)
    pixels: Pixels = field(default_factory=Pixels)
    pages: dict[str, dict[str, str]] = field(default_factory=dict)
    truncated: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(
        self,
        bundle: ModelBundle,
        device: torch.device,
        processes: Processes | None = None,
        cache: Path | None = None,
        name: str = "the model",
        shown: bool = False,
    ) -> list[Metric]:
        """Measure a model with all evaluators; every process gets all metrics.

        The model is put into evaluation mode and back. Resampling is seeded, so equal models get equal intervals.

        Args:
            bundle: the model.
            device: where it computes.
            processes: those that measure together; by default this one alone.
            cache: a folder for features, from which an interrupted run goes on.
            name: what the model is called in messages.
            shown: show the progress.

        Raises:
            UserError: a picture can't be decoded, or a feature is not finite.
        """
        training = bundle.model.training
        bundle.model.eval()
        start = time.perf_counter()
        store = None if cache is None else FeatureStore(cache, bundle)
        embed = Embedder(bundle, device, self.batch_size, processes, self.pixels, store, name, shown)
        try:
            metrics = list(self._measure(embed))
        finally:
            embed.save()
            bundle.model.train(training)
        embed.finish()
        self._warn(embed.truncated, name, embed.processes.first)
        self.seconds["all"] = time.perf_counter() - start
        metrics.append(Metric("eval/seconds", self.seconds["all"]))
        return metrics

    def sets_read(self) -> dict[str, dict[str, Any]]:
        """For each set how many images it has, and what was left out: {name: {images, left_out, examples}}.

        `left_out` counts samples by cause, `examples` names one for each cause.
        """
        return {
            name: {"images": len(data), "left_out": data.bad, "examples": data.examples}
            for name, data in self.sets.items()
        }

    def _measure(self, embed: Embedder) -> Iterator[Metric]:
        self.pages, self.seconds = {}, {}
        embed.prepare(self.sets.values())
        for evaluator in self.evaluators:
            start, embedding = time.perf_counter(), embed.seconds
            yield from evaluator(embed, np.random.default_rng(0), self.resamples)
            self.seconds[evaluator.name] = time.perf_counter() - start - (embed.seconds - embedding)
            self.seconds["embed"] = embed.seconds
            pages = getattr(evaluator, "pages", None)
            if pages:
                self.pages[evaluator.name] = dict(pages)

    def _warn(self, truncated: list[str], name: str, shown: bool) -> None:
        """Name the texts that a tokenizer cuts, once: every epoch's are the same."""
        new = [text for text in truncated if text not in set(self.truncated)]
        self.truncated = truncated
        if new and shown:
            some = "; ".join(repr(text) for text in new[:3])
            print(
                f"note: the tokenizer of {name} cuts {len(new)} text(s), so that their ends count for nothing: {some}"
                f"{', ...' if len(new) > 3 else ''}",
                file=sys.stderr,
            )


def build_suite(
    sets: dict[str, Any],
    evaluators: dict[str, Any],
    resamples: int = 1000,
    batch_size: int = 256,
    held_out: HeldOut | None = None,
    keep_bytes: int = KEEP_BYTES,
    allow_pipe: bool = False,
    max_bad: float = 0.05,
) -> Suite:
    """Load the sets and check the evaluators.

    A set that is not there is reported and skipped with the evaluators that need it, and the rest still runs.

    Args:
        sets: name -> {path: ...}. The path of `held_out` is given apart.
        evaluators: name -> {kind, set, options}.
        resamples: bootstrap resamples behind an interval.
        batch_size: pictures or texts embedded at a time.
        held_out: image-text pairs that a run holds back, for the set `held_out` and one more evaluator, `retrieval`;
            None for none.
        keep_bytes: decoded pictures to keep for the next epoch or model, in bytes.
        allow_pipe: let the sets' `pipe:` addresses run shell commands.
        max_bad: share of a set's samples that may be unusable (`load_set`).

    Raises:
        UserError: an unknown kind, set or option.
    """
    sets, evaluators = dict(sets), dict(evaluators)
    missing: dict[str, str] = {}
    if held_out is not None:
        sets[HELD_OUT] = {**(sets.get(HELD_OUT) or {}), "path": held_out}
        evaluators.setdefault("retrieval", {"kind": "retrieval", "set": HELD_OUT})
    elif HELD_OUT in sets and not (sets[HELD_OUT] or {}).get("path"):
        missing[HELD_OUT] = "neither data.eval nor data.holdout names pictures held out."
    suite = Suite([], {}, [], resamples, batch_size, pixels=Pixels(keep_bytes))
    used: set[str] = set()
    for name, options in evaluators.items():
        with expecting(f"eval.evaluators.{name}"):
            kind = find_kind(name, options.get("kind"))
            roles = _roles(name, options, sets)
        if "set" not in options and _takes_one_set(kind):
            raise UserError(
                f"eval.evaluators.{name}.set must be given for the kind {options['kind']}: one of eval.sets "
                f"({', '.join(sets) or 'none'})."
            )
        for wanted in roles.values():
            if wanted in suite.sets or wanted in missing:
                continue
            try:
                suite.sets[wanted] = load_set(wanted, sets[wanted], allow_pipe, max_bad)
            except MissingSet as error:
                if wanted == HELD_OUT and held_out is not None and held_out.share is None:  # the user named it
                    raise
                missing[wanted] = str(error)
        absent = [missing[wanted] for wanted in roles.values() if wanted in missing]
        if absent and not getattr(kind, "partial", False):
            suite.absent[name] = absent[0]
            continue
        suite.skipped += [f"{name} runs without a part of it: {sentence}" for sentence in dict.fromkeys(absent)]
        data = {role: suite.sets[wanted] for role, wanted in roles.items() if wanted in suite.sets}
        try:
            with expecting(f"eval.evaluators.{name}"):
                evaluator = kind(name, options, data["set"] if "set" in options else data)
        except MissingSet as error:
            suite.absent[name] = str(error)
            continue
        suite.evaluators.append(evaluator)
        suite.skipped += [f"{name}: {sentence}" for sentence in getattr(evaluator, "skipped", ())]
        used |= set(roles.values())
    suite.sets = {wanted: data for wanted, data in suite.sets.items() if wanted in used}
    suite.skipped = _by_cause(suite.absent) + suite.skipped
    suite.skipped += [sentence for data in suite.sets.values() for sentence in data.sentences()]
    return suite


def _by_cause(absent: dict[str, str]) -> list[str]:
    """One sentence for all evaluators that lack the same."""
    lacking: dict[str, list[str]] = {}
    for name, cause in absent.items():
        lacking.setdefault(cause, []).append(name)
    return [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} skipped: {cause}" for cause, names in lacking.items()
    ]


def find_kind(name: str, kind: Any) -> Any:
    """The class of a kind of evaluator.

    Raises:
        UserError: there is no such kind, or it is no evaluator.
    """
    where = KINDS.get(kind, kind) if isinstance(kind, str) else ""
    module, _, attribute = str(where).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"eval.evaluators.{name}.kind={kind} is not known; it is one of {', '.join(KINDS)}, or module:Class."
        ) from error
    if not isinstance(found, type) or not any("__call__" in vars(base) for base in found.__mro__[:-1]):
        raise UserError(
            f"eval.evaluators.{name}.kind={kind} is no evaluator: that is a class whose objects are called with a "
            "model's features (docs/extending.md)."
        )
    return found


def check_kinds(evaluators: Any, where: str, named: Collection[str]) -> None:
    """Check that what came from a file of others imports nothing: its kinds are the project's own, or were named.

    Args:
        evaluators: name -> options, as the file has them.
        where: the file, for messages.
        named: the classes that the command line names itself.

    Raises:
        UserError: a class of one's own that the command line does not name.
    """
    for name, options in evaluators.items() if isinstance(evaluators, Mapping) else ():
        kind = options.get("kind") if isinstance(options, Mapping) else None
        if isinstance(kind, str) and kind not in KINDS and ":" in kind and kind not in named:
            raise UserError(
                f"{where}: eval.evaluators.{name}.kind={kind} would import code that the file names; if you trust it, "
                f"name it yourself: eval.evaluators.{name}.kind={kind}"
            )


def _takes_one_set(kind: Any) -> bool:
    """Whether a kind is built with one set, as the type of its argument `data` says."""
    try:
        return typing.get_type_hints(kind.__init__).get("data") is EvalSet
    except (NameError, TypeError):  # types that are imported for the checker alone
        return False


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
