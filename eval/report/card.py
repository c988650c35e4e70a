"""The model card of an exported run: what was measured, on what, and how the training data was balanced.

Its head is the metadata that the Hugging Face hub reads: library, task, and results as a `model-index`.
"""

import html
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from balance.common.metric import Row, at_chance
from balance.common.terminal import visible
from eval.report.page import format_number
from eval.report.rundata import RunData

TASKS = {"retrieval": ("zero-shot-retrieval", "Zero-shot retrieval")}
ZERO_SHOT = ("zero-shot-image-classification", "Zero-shot image classification")
LIMITS = """\
- The attributes are labels from captions, metadata or annotators: how people are *described or perceived* in the data,
  not who they are. Groups that no label names were neither balanced nor measured.
- Bias was measured with the prompts and pictures above. Other prompts, pictures and languages can give other results;
  a value near zero is no proof that there is no bias.
- Balancing acts on first- and second-order moments of the labels. It does not remove other differences between groups,
  nor harmful content.
- Do not use the model to decide about people, or to infer attributes of them.
"""


USE = {
    "open_clip": """\
```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:<folder>")
tokenizer = open_clip.get_tokenizer("local-dir:<folder>")
```
""",
    "transformers": """\
```python
from transformers import AutoModel, AutoProcessor, pipeline

model, processor = AutoModel.from_pretrained("<folder>"), AutoProcessor.from_pretrained("<folder>")
classify = pipeline("zero-shot-image-classification", model="<folder>")
```
""",
}
"""How to load an exported model, by the library that it is for."""


def rows_at(run: RunData, step: int | None) -> list[Row]:
    """The evaluators' metrics of a step, those of the run's summary first; of the newest evaluation up to it.

    Empty if nothing was measured until then; the card says so.
    """
    last = math.inf if step is None else step
    found = {}
    for name, rows in run.evaluated().items():
        until = [row for row in rows if row["step"] <= last and math.isfinite(row["value"])]
        if until:
            found[name] = until[-1]
    newest = max((row["step"] for row in found.values()), default=None)
    found = {name: row for name, row in found.items() if row["step"] == newest}
    first = [name for name in run.headline.values() if name in found]
    return [found[name] for name in dict.fromkeys([*first, *found])]


def write_card(
    run: RunData, rows: list[Row], averaged: bool, license: str | None = None, library: str = "open_clip"
) -> str:
    """The text of README.md.

    Args:
        run: the run.
        rows: from `rows_at`.
        averaged: whether the weights are an EMA.
        license: an identifier that the hub knows, such as apache-2.0.
        library: that loads the exported folder, of `USE`.
    """
    data = ModelCardData(
        library_name=library,
        pipeline_tag=ZERO_SHOT[0],
        license=license,
        tags=["clip" if _loss(run) == "clip" else "siglip", library, "bias", "counterbalance"],
        model_name=run.name,
        eval_results=[_result(run, row) for row in rows] or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(_text(run, rows, averaged, library))


def plain(text: Any) -> str:
    """Text of others as Markdown that shows it as it is, on one line: no links, images, HTML or tables come of it."""
    line = html.escape(" ".join(visible(str(text)).split()), quote=False)
    return re.sub(r"([\\`*_\[\]()#|~!{}])", r"\\\1", line)


def code(text: Any) -> str:
    """Text of others as a code span."""
    return f"`{' '.join(visible(str(text)).split()).replace('`', chr(39))}`"


def _loss(run: RunData) -> str:
    model = run.config["model"]
    biased = (model.get("config") or {}).get("init_logit_bias") is not None or "siglip" in str(model["name"]).lower()
    return str(model.get("loss") or ("siglip" if biased else "clip"))


def _result(run: RunData, row: Row) -> EvalResult:
    evaluator, _, measure = row["name"].partition("/")
    options = (run.config["eval"].get("evaluators") or {}).get(evaluator) or {"kind": evaluator}
    task, title = TASKS.get(str(options.get("kind")), ZERO_SHOT)
    dataset = str(options.get("set") or ("held_out" if evaluator == "retrieval" else evaluator))
    facts = {key: row[key] for key in ("low", "high", "count", "prompts") if row.get(key) is not None}
    return EvalResult(
        task_type=task,
        task_name=title,
        dataset_type=dataset,
        dataset_name=dataset,
        metric_type=measure or evaluator,
        metric_name=_label(run, row["name"]),
        metric_value=round(row["value"], 6),
        metric_args=facts or None,
    )


def _label(run: RunData, name: str) -> str:
    return {metric: label for label, metric in run.headline.items()}.get(name, name)


def _text(run: RunData, rows: list[Row], averaged: bool, library: str) -> Iterable[str]:
    model = run.config["model"]
    yield f"# {plain(run.name)}\n"
    until = (
        f"with its bias and quality measured after {rows[0]['samples']:,} samples (step {rows[0]['step']})"
        if rows
        else "whose bias and quality were **not measured**"
    )
    average = " Its weights are the running average over the steps." if averaged else ""
    yield (
        f"A {'CLIP' if _loss(run) == 'clip' else 'SigLIP'} model ({plain(model['name'])}) trained on data that was "
        f"**{plain(run.treatment)}**, {until}.{average}\n"
    )
    start = model.get("init_from") or model.get("pretrained")
    yield f"It was trained from {f'the weights {code(_public(str(start)))}' if start else 'random weights'}.\n"
    yield USE[library]
    if at_chance(rows):
        yield "**Its quality is at chance**: the measures of bias below say nothing of what training did.\n"
    for title, direction in (
        ("Measured bias (0 is none)", "bias"),
        ("Measured quality", "quality"),
        ("Other measures", "other"),
    ):
        chosen = [row for row in rows if run.direction(row["name"]) == direction]
        if chosen:
            yield f"## {title}\n"
            yield "| measure | value | 95 % interval | pictures or pairs | prompts |\n|---|---|---|---|---|"
            yield from (_row(run, row) for row in chosen)
            yield ""
    if rows:
        yield "Intervals are from a bootstrap over pictures.\n"
    yield from _training_data(run)
    yield f"## Limits\n\n{LIMITS}"


def _row(run: RunData, row: Row) -> str:
    ends = "" if row.get("low") is None else f"{format_number(row['low'])} to {format_number(row['high'])}"
    count = "" if row.get("count") is None else f"{row['count']:,}"
    prompts = plain(row.get("prompts") or "")
    return f"| {plain(_label(run, row['name']))} | {format_number(row['value'])} | {ends} | {count} | {prompts} |"


def _training_data(run: RunData) -> Iterable[str]:
    config = run.config
    yield "## Training data\n"
    labels = (config.get("attributes") or {}).get("name", "as configured")
    yield f"- data: {plain(config['data']['name'])}; labels: {plain(labels)}"
    yield f"- treatment: {plain(run.data.get('title') or run.treatment)}"
    if run.data.get("hash"):
        yield f"- hash of data and plan: {code(run.data['hash'])}"
    if run.data.get("rows"):
        yield "\n| moments of the training data | as it is | as trained on |\n|---|---|---|"
        for row in run.data["rows"]:
            yield f"| {plain(row['name'])} | {format_number(row['before'])} | {format_number(row['after'])} |"
    for part in run.data.get("inside") or []:
        shown = part["rows"][:10]
        if shown:
            title = f"share of *{plain(part['attribute'])}* (target {part['target']:g}) in"
            yield f"\n| {title} | as it is | as trained on |\n|---|---|---|"
            for row in shown:
                yield f"| {plain(row['concept'])} | {format_number(row['before'])} | {format_number(row['after'])} |"
            if len(part["rows"]) > len(shown):
                yield f"\n... and {len(part['rows']) - len(shown)} more concepts."
    for note in (run.data.get("notes") or [])[:5]:
        yield f"\nNote: {plain(note)}"
    yield ""


def _public(start: str) -> str:
    """Where weights were from, without the folders of the machine."""
    return start if not start.startswith(("/", ".")) else Path(start).name
