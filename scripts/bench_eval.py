"""How fast evaluation is: association tests, retrieval, and a suite beside the embedding of its stimuli.

    python scripts/bench_eval.py                       tests and retrieval, on made-up features
    python scripts/bench_eval.py suite=<results>       what a suite cost, from the suite.json of scripts/evaluate.py

Settings, as key=value: what=[tests, retrieval] images=25000 captions=125000 width=512 samples=1000000.
"""

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conf.app.runtime  # noqa: F401  # isort: skip  # before torch

import numpy as np
import torch
import torch.nn.functional as F

from balance.errors import UserError
from conf.app.command import run_command, split_options
from eval.evaluators.eat import Eat
from eval.evaluators.eat_stimuli import read_definitions
from eval.evaluators.retrieval import best_ranks
from eval.sets import EvalSet

OPTIONS: dict[str, Any] = {
    "what": ["tests", "retrieval"],
    "suite": "",
    "images": 25_000,
    "captions": 125_000,
    "width": 512,
    "samples": 1_000_000,
}


class CachedFeatures:
    """Stands in for `Embedder`: features are there already, made up."""

    def __init__(self, sets: Sequence[EvalSet], width: int) -> None:
        self.width = width
        self._images = {data.name: unit_rows(len(data), width, seed) for seed, data in enumerate(sets)}

    def images(self, data: EvalSet) -> torch.Tensor:
        """Features of a set."""
        return self._images[data.name]

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Features of texts."""
        return unit_rows(len(texts), self.width, 99)


def unit_rows(n: int, width: int, seed: int) -> torch.Tensor:
    """Random directions, (n, width)."""
    return F.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def stimuli_of_26() -> dict[str, EvalSet]:
    """Sets with the names and numbers of the pictures of the 26 tests, those that were not published among them."""
    keys = [f"{folder}/{n}.jpg" for folder, count in read_definitions("valence26").counts.items() for n in range(count)]
    pictures = EvalSet("pictures", [b""] * len(keys), [{}] * len(keys), [()] * len(keys), keys=keys)
    ratings: list[dict[str, Any]] = [{"Valence_mean": str(n)} for n in range(50)]
    valence = EvalSet("valence", [b""] * 50, ratings, [()] * 50, keys=[f"{n}.jpg" for n in range(50)])
    return {"pictures": pictures, "valence": valence}


def bench_tests(samples: int, width: int) -> None:
    """The 26 tests from cached features."""
    sets = stimuli_of_26()
    evaluator = Eat("valence26", {"kind": "eat", "tests": "valence26", "samples": samples}, sets)
    features: Any = CachedFeatures(list(sets.values()), width)
    start, cpu = time.perf_counter(), time.process_time()
    metrics = list(evaluator(features, np.random.default_rng(0), 1000))
    tests = sum("/p[" in metric.name for metric in metrics)
    seconds, spent = time.perf_counter() - start, time.process_time() - cpu
    print(f"{tests} tests, {samples:,} permutations each, 1000 resamples: {seconds:.1f} s (CPU {spent:.1f} s)")


def bench_retrieval(images: int, captions: int, width: int) -> None:
    """Ranks both ways, `captions / images` captions a picture."""
    pictures, texts = unit_rows(images, width, 0), unit_rows(captions, width, 1)
    text_of = torch.arange(captions)
    image_of = text_of * images // captions
    before = peak()
    start = time.perf_counter()
    best_ranks(pictures, texts, image_of, text_of)
    best_ranks(texts, pictures, text_of, image_of)
    seconds = time.perf_counter() - start
    print(f"retrieval {images:,} x {captions:,}, both ways: {seconds:.0f} s, largest memory {peak():.2f} GB")
    print(f"  ({before:.2f} GB of it before: PyTorch and the features)")


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def report_suite(folder: Path) -> None:
    """What the evaluators of a suite add to the embedding of its stimuli."""
    path = folder / "suite.json"
    if not path.is_file():
        raise UserError(f"suite={folder}: there is no suite.json; make it with scripts/evaluate.py.")
    facts = json.loads(path.read_text(encoding="utf-8"))
    seconds = facts["seconds"]
    pictures = sum(facts["sets"].values())
    ratio = seconds["all"] / seconds["embed"]
    print(f"{facts['model']}, {pictures:,} pictures: embedding {seconds['embed']:.1f} s, suite {seconds['all']:.1f} s,")
    print(f"  {ratio:.2f} x its embedding; all evaluators together {seconds['all'] - seconds['embed']:.1f} s")


def main(arguments: list[str]) -> int:
    """Run what is asked for; the exit status."""
    options, rest = split_options(arguments, OPTIONS)
    if rest:
        raise UserError(f"{rest[0]!r} is no setting; write key=value with one of {', '.join(OPTIONS)}.")
    if options["suite"]:
        report_suite(Path(options["suite"]))
        return 0
    if "tests" in options["what"]:
        bench_tests(options["samples"], options["width"])
    if "retrieval" in options["what"]:
        bench_retrieval(options["images"], options["captions"], options["width"])
    return 0


if __name__ == "__main__":
    run_command(main, __doc__)
