"""What one mutated input is put through: the commands, as they are typed."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from conf.app.schema import Config
from tests.fuzz import shards
from tests.fuzz.mutate import Rng, mutate, odd_value
from tests.launching import EVALUATORS, data_overrides, make_world, model_overrides, once

Command = tuple[str, list[str]]
"""The program's path in the checkout, and its arguments."""

SMALL = ["schedule.epochs=1", "schedule.epoch_samples=16", "data.batch_size=4", "eval.batch_size=8", "eval.bootstrap=5"]


@dataclass
class Base:
    """What every input starts from; it is only read.

    Attributes:
        world: sound shards.
        runs: holds the run `a`, which was stopped in its middle, so that it can be gone on with.
    """

    world: Path
    runs: Path


def make_base(folder: Path) -> Base:
    """Sound shards, and a run on them that was stopped."""
    import train
    from conf.app.cli import compose

    world = make_world(folder / "world")
    overrides = [*data_overrides(world, folder / "runs"), *model_overrides(), "balance.min_concept_samples=5"]
    more = ["name=a", "schedule.epochs=2", "schedule.epoch_samples=32", "checkpoint.keep=3", "data.batch_size=8"]
    assert train.main(compose([*overrides, *more])) == 0
    shutil.rmtree(folder / "runs/a/checkpoints/never", ignore_errors=True)
    for newest in sorted((folder / "runs/a/checkpoints").glob("step-*.pt"))[1:]:
        newest.unlink()  # as if it had been killed after the first epoch
    return Base(world, folder / "runs")


def _own(values: list[str], name: str) -> list[str]:
    return [value for value in values if not value.startswith(f"{name}=")]


def _data_commands(base: Base, root: Path, found: dict[str, Any], rng: Rng) -> list[Command]:
    """Label, then one of: dry run, training, audit, evaluation."""
    tiny = data_overrides(base.world, root / "runs") + model_overrides()
    for name in ("data.train", "data.eval", "eval.sets", "attributes", "attributes.sources", "data.batch_size"):
        tiny = _own(tiny, name)
    tiny = [one for one in tiny if one not in SMALL]
    where = found["plain"]
    labels = (
        ["attributes=captions"]
        if rng.random() < 0.5
        else [one for one in data_overrides(base.world, root) if one.startswith("attributes")]
    )
    limit = f"data.max_bad={('0.05', '0.5', '1.0')[int(rng.integers(3))]}"
    annotate = (
        "scripts/annotate.py",
        [f"data.train={where}", *labels, f"out={root / 'attributes'}", "workers=0", limit],
    )
    sets = f"eval.sets={{faces: {{path: {found['classes'] if rng.random() < 0.5 else where}}}}}"
    sound = f"data.train={base.world / 'train'}"
    followed: list[Command] = [
        ("train.py", [*tiny, *SMALL, *labels, f"data.train={where}", sets, limit, "dry_run=true", "name=x"]),
        ("train.py", [*tiny, *SMALL, *labels, f"data.train={where}", sets, limit, "name=x", "balance=none"]),
        ("train.py", [*tiny, *SMALL, *labels, sound, f"data.eval={where}", limit, "name=x", "dry_run=true"]),
        ("scripts/audit.py", [f"data.train={where}", *labels, limit, f"out={root / 'audit'}"]),
    ]
    return [annotate, followed[int(rng.integers(len(followed)))]]


def tar_bytes(base: Base, root: Path, rng: Rng) -> list[Command]:
    """A shard of which bytes were changed."""
    return _data_commands(base, root, shards.write_layout(root / "data", shards.tar_bytes(rng), rng), rng)


def sample_contents(base: Base, root: Path, rng: Rng) -> list[Command]:
    """A shard whose samples are odd."""
    return _data_commands(base, root, shards.write_layout(root / "data", shards.sample_contents(rng), rng), rng)


def _keys(schema: Any, prefix: str = "") -> list[str]:
    found = []
    for one in fields(schema):
        value = getattr(schema, one.name)
        found += _keys(value, f"{prefix}{one.name}.") if is_dataclass(value) else [f"{prefix}{one.name}"]
    return found


KEYS = _keys(Config())
GROUPS = ("data", "attributes", "balance", "model", "optim", "schedule", "eval", "track", "experiment")
# They decide where things are written, or ask for what is not this machine's: odd values are told apart elsewhere.
LEFT_ALONE = {"runs", "device", "data.workers", "track.wandb", "track.project", "track.entity"}


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str).replace('"', "")


def command_lines(base: Base, root: Path, rng: Rng) -> list[Command]:
    """Odd overrides beside sound ones: of a dry run, and of commands with options of their own."""
    odd = []
    for _ in range(int(rng.integers(1, 4))):
        key = str(rng.choice([one for one in KEYS if one not in LEFT_ALONE]))
        if rng.random() < 0.15:
            key = str(
                rng.choice([*GROUPS, "nonsense", "data.trian", "+new.key", "~seed", "++x", "data", "eval.sets.x.path"])
            )
        odd.append(f"{key}={_as_text(odd_value(rng))}" if rng.random() < 0.95 else key)
    sound = [
        *data_overrides(base.world, root / "runs"),
        *model_overrides(),
        *SMALL,
        "name=x",
        "balance.min_concept_samples=5",
    ]
    taken = {one.split("=", 1)[0] for one in odd}
    sound = [one for one in sound if one.split("=", 1)[0] not in taken]
    if rng.random() < 0.7:
        return [("train.py", [*sound, *odd, "dry_run=true"])]
    run = base.runs / "a"
    options = [
        f"run={run}",
        f"runs={base.runs}",
        f"out={root / 'out'}",
        f"plan={run / 'plan'}",
        f"data.train={base.world / 'train'}",
    ]
    script = str(
        rng.choice(["export", "evaluate", "audit", "annotate", "solve", "interpolate", "compare", "frontier", "curves"])
    )
    return [
        (f"scripts/{script}.py", [*rng.permutation(options)[: int(rng.integers(0, 5))], *odd, f"out={root / 'o'}"][:6])
    ]


def _mutate_yaml(path: Path, rng: Rng) -> None:
    """Change the content of a YAML or JSON file, or its bytes."""
    text = path.read_bytes()
    if rng.random() < 0.3:
        path.write_bytes(mutate(text, rng))
        return
    if rng.random() < 0.15:
        bombs = [
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"{n}: &{n} [{', '.join(['*' + p] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
            "x: !!python/object/apply:os.system ['touch pwned']\n",
            "[" * 50_000,
            "a: *missing\n",
            "- 1\n- 2\n",
            "? {a: 1}\n: 2\n",
        ]
        path.write_text(bombs[int(rng.integers(len(bombs)))] + text.decode("utf-8", "ignore"))
        return
    content = yaml.safe_load(text)
    for _ in range(int(rng.integers(1, 4))):
        node, steps = content, int(rng.integers(1, 5))
        for step in range(steps):
            keys: list[Any] = (
                list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
            )
            if not keys:
                break
            key = keys[int(rng.integers(len(keys)))]
            if step == steps - 1 or not isinstance(node[key], dict | list) or not node[key]:
                if rng.random() < 0.3:
                    del node[key]
                else:
                    node[key] = odd_value(rng)
                break
            node = node[key]
    if path.suffix == ".json":
        path.write_text(json.dumps(content, default=str))
    else:
        path.write_bytes(yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogateescape"))


def run_folders(base: Base, root: Path, rng: Rng) -> list[Command]:
    """A run of which one file was changed; then it is resumed, exported, evaluated, compared, mixed or started from."""
    runs = root / "runs"
    shutil.copytree(base.runs, runs)
    run = runs / "a"
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.suffix != ".html")
    weighed = [path for path in files if path.name in ("config.yaml", "metrics.jsonl") or path.suffix == ".pt"]
    chosen = [files, weighed][int(rng.random() < 0.7)]
    path = chosen[int(rng.integers(len(chosen)))]
    if path.suffix in (".yaml", ".json"):
        _mutate_yaml(path, rng)
    elif rng.random() < 0.1:
        path.unlink()
    else:
        path.write_bytes(mutate(path.read_bytes(), rng))
    commands: list[Command] = [
        ("train.py", ["name=a", f"runs={runs}", "resume=true"]),
        ("scripts/export.py", [f"run={run}", f"out={root / 'exported'}"]),
        ("scripts/compare.py", [str(run), str(base.runs / "a"), f"out={root / 'compare.html'}"]),
        ("scripts/interpolate.py", [f"run={run}", f"start={base.runs / 'a'}", "alphas=[0,1]"]),
        (
            "train.py",
            [
                *data_overrides(base.world, runs),
                "model=from",
                f"model.init_from={run}",
                *SMALL[:2],
                "name=b",
                "dry_run=true",
            ],
        ),
        (
            "scripts/evaluate.py",
            [f"model.init_from={run}", f"suite={run / 'config.yaml'}", f"out={root / 'suite'}", "device=cpu"],
        ),
    ]
    # A resume reads everything, so it has the larger share.
    return [commands[int(rng.choice(len(commands), p=[0.4, 0.15, 0.1, 0.1, 0.15, 0.1]))]]


def suites(base: Base, root: Path, rng: Rng) -> list[Command]:
    """A suite, a word list or a file of attributes that was changed."""
    root.mkdir(parents=True, exist_ok=True)
    run = base.runs / "a"
    if rng.random() < 0.5:
        path = root / "suite.yaml"
        path.write_text(f"sets: {{faces: {{path: {base.world / 'eval'}}}}}\nevaluators: {EVALUATORS}\n")
        _mutate_yaml(path, rng)
        return [
            ("scripts/evaluate.py", [f"model.init_from={run}", f"suite={path}", f"out={root / 'out'}", "device=cpu"])
        ]
    words = root / "words.yaml"
    words.write_text((Path(__file__).resolve().parents[2] / "balance/labels/word_lists/gender.yaml").read_text())
    _mutate_yaml(words, rng)
    sources = f"attributes.sources=[{{kind: captions, attributes: [{words}], concepts: [occupations]}}]"
    given = [
        "attributes=captions",
        sources,
        f"data.train={base.world / 'train'}",
        f"out={root / 'labels'}",
        "workers=0",
    ]
    return [("scripts/annotate.py", given)]


GENERATORS: dict[str, tuple[float, Callable[[Base, Path, Rng], list[Command]]]] = {
    "tar_bytes": (0.35, tar_bytes),
    "sample_contents": (0.35, sample_contents),
    "command_lines": (0.14, command_lines),
    "run_folders": (0.11, run_folders),
    "suites": (0.05, suites),
}
"""Share of all inputs, and the generator, which writes an input into a folder and says what to do with it."""


def make_case(seed: int, base: Base, root: Path, only: str = "") -> tuple[str, list[Command]]:
    """Write the input of a seed into `root`; the name of its generator, and the commands.

    Args:
        seed: decides everything.
        base: what the input starts from.
        root: an empty folder.
        only: the generator to take; by default one is drawn by its share.
    """
    random.seed(seed)
    rng = np.random.default_rng(seed)
    names = list(GENERATORS)
    name = only or names[int(rng.choice(len(names), p=[GENERATORS[one][0] for one in names]))]
    return name, [(script, once(arguments)) for script, arguments in GENERATORS[name][1](base, root, rng)]
