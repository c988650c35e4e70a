"""What scripts/evaluate.py and scripts/zoo.py share: a suite and a model from overrides, measured and written down."""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from balance.common.documents import read_mapping
from balance.common.metric import Metric, at_chance
from balance.errors import UserError
from balance.files import write_whole
from conf.app.cli import CONF, compose_raw, named_kinds, to_config
from conf.app.named_sets import check_named_sets
from conf.app.schema import Config, ModelConfig
from eval.runner import Suite, build_suite, check_kinds
from models.factory import ModelBundle
from models.start import FROM
from models.training.distributed import Processes

NO_BETTER = (
    "The model's quality is at chance: its measures of bias say how features happen to lie, and are not to be judged."
)


@dataclass
class Measured:
    """A model's results.

    Attributes:
        facts: JSON-ready: model, architecture, parameters, suite, date, seconds, what was left out.
        rows: JSON-ready, one for each metric.
        pages: evaluator -> title -> HTML or SVG fragment.
    """

    facts: dict[str, Any]
    rows: list[dict[str, Any]]
    pages: dict[str, dict[str, str]]


def compose_suite(overrides: Sequence[str], suite: str) -> Config:
    """The configuration of an evaluation: `conf/eval/<suite>.yaml`, or a file of that form, and a model.

    A model that is named needs no group: `model.name=` alone means an open_clip model, `model.init_from=` alone a model
    of the architecture that the weights carry.

    Raises:
        UserError: there is no such suite, or the overrides do not fit.
    """
    overrides = list(overrides)
    keys = {override.partition("=")[0] for override in overrides}
    if "model" not in keys and keys & {"model.name", "model.init_from"}:
        overrides.insert(0, "model=open_clip" if "model.name" in keys else "model=from")
    if not suite.endswith((".yaml", ".yml")):
        return to_config(compose_raw([f"eval={suite}", *overrides]))
    path = Path(suite)
    if not path.is_file():
        raise UserError(f"suite={suite}: there is no such file; give one, or one of {', '.join(known_suites())}.")
    inside = [override for override in overrides if override.startswith("eval.")]
    raw = compose_raw(["eval=full", *(override for override in overrides if override not in inside)])
    try:
        changes = OmegaConf.from_dotlist([override.removeprefix("eval.") for override in inside])
        content = read_mapping(path, "a suite of evaluations", "write sets and evaluators into it")
        check_suite(content, suite, named_kinds(overrides))
        raw.eval = OmegaConf.merge({"name": path.stem}, OmegaConf.create(content), changes)
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"suite={suite} can't be read: {' '.join(str(error).split())[:300]}") from error
    check_named_sets(raw, inside)
    return to_config(raw)


def check_suite(content: dict[str, Any], suite: str, named: Collection[str]) -> None:
    """Check that a suite's file looks nothing up outside the configuration, and imports nothing.

    Raises:
        UserError: it does.
    """
    check_kinds(content.get("evaluators"), f"suite={suite}", named)
    looked_up = re.search(r"\$\{\s*[\w.]+\s*:[^}]*\}", json.dumps(content, default=str))
    if looked_up:
        raise UserError(
            f"suite={suite}: {looked_up[0]} would be looked up on this machine; write the value, or a reference such "
            "as ${eval.root}, and give that on the command line."
        )


def known_suites() -> list[str]:
    """The suites that the project brings."""
    return sorted(path.stem for path in (CONF / "eval").glob("*.yaml"))


def load_suite(config: Config, keep_bytes: int) -> Suite:
    """Load the sets and check the evaluators of a configuration.

    Raises:
        UserError: an option is wrong, or nothing at all can run.
    """
    wanted = config.eval
    suite = build_suite(
        wanted.sets,
        wanted.evaluators,
        wanted.bootstrap,
        wanted.batch_size,
        keep_bytes=keep_bytes,
        allow_pipe=config.data.allow_pipe,
        max_bad=config.data.max_bad,
    )
    if not suite.evaluators:
        raise UserError(f"The suite {wanted.name} has nothing to run: {' '.join(suite.skipped) or 'it is empty'}")
    return suite


def model_name(wanted: ModelConfig) -> str:
    """What a model is called in tables: its name and where its weights are from."""
    weights = wanted.pretrained or wanted.init_from
    if wanted.name == FROM and weights:
        return weights
    return f"{wanted.name} {weights}" if weights else wanted.name


def folder_name(name: str) -> str:
    """A name that a folder can bear."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[-80:] or "model"


def measure(
    suite: Suite,
    config: Config,
    bundle: ModelBundle,
    name: str,
    device: torch.device,
    cache: Path | None,
    processes: Processes | None = None,
    shown: bool = True,
) -> Measured:
    """Run a suite over a model.

    Args:
        suite: its evaluators and sets.
        config: where it is from.
        bundle: the model.
        name: of the model.
        device: where it computes.
        cache: the folder of features, or None.
        processes: those that measure together; by default this one alone.
        shown: show the progress.
    """
    metrics = suite.run(bundle, device, processes, cache, name, shown)
    told = [*suite.skipped, *([NO_BETTER] if at_chance([metric.row() for metric in metrics]) else [])]
    kinds = {key: options.get("kind") for key, options in config.eval.evaluators.items()}
    facts = {
        "model": name,
        **architecture(bundle),
        "suite": config.eval.name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {part: round(seconds, 2) for part, seconds in suite.seconds.items()},
        "sets": {key: len(data) for key, data in suite.sets.items()},
        "left_out": {key: found["left_out"] for key, found in suite.sets_read().items() if found["left_out"]},
        "skipped": told,
        "truncated": suite.truncated,
        "kinds": {evaluator.name: kinds.get(evaluator.name) for evaluator in suite.evaluators},
        "headline": config.eval.headline,
    }
    return Measured(facts, [_row(metric, name, kinds) for metric in metrics], suite.pages)


def architecture(bundle: ModelBundle) -> dict[str, Any]:
    """Parameters (in all, of the image and of the text tower), picture size and loss of a model."""
    parameters = {name: tensor.numel() for name, tensor in bundle.model.named_parameters()}
    image = sum(number for name, number in parameters.items() if name.startswith("visual."))
    return {
        "parameters": sum(parameters.values()),
        "image_parameters": image,
        "text_parameters": sum(parameters.values()) - image,
        "image_size": bundle.image_size,
        "loss": bundle.loss,
    }


def _row(metric: Metric, name: str, kinds: dict[str, Any]) -> dict[str, Any]:
    evaluator = metric.name.split("/")[0]
    return metric.row(model=name, evaluator=evaluator, kind=kinds.get(evaluator))


def write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON lines, whole or not at all."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
