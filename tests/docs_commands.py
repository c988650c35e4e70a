"""The commands in the documentation, and a small workspace in which they run."""

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from accelerate.state import AcceleratorState, GradientState

from tests.conftest import ROOT
from tests.tiny import people_shards, sample, write_tar

LAUNCHERS = ("accelerate launch", "torchrun", "srun")
# So that a run of any length ends after a few steps.
SHORT = (
    "schedule.epochs=1",
    "schedule.epoch_samples=40",
    "data.batch_size=4",
    "data.workers=0",
    "eval.bootstrap=10",
    "device=cpu",
    "precision=fp32",
    "track=none",
)
SHORT_KEYS = {word.split("=")[0] for word in SHORT}
SHOWN = re.compile(r"(\w+=\S+ )*(python|make|accelerate|torchrun|srun|sbatch|pip|wandb|git) ")


@dataclass(frozen=True)
class Command:
    """A command as a page shows it."""

    page: str
    text: str

    def words(self) -> list[str]:
        """Its words as the shell would pass them."""
        return shlex.split(self.text, comments=True)


def commands() -> Iterator[Command]:
    """Every command line of every fenced block without a language, or with that of a shell."""
    seen = set()
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                text = re.sub(r"\s+", " ", line.strip().removeprefix("$ "))
                if SHOWN.match(text) and text not in seen:
                    seen.add(text)
                    yield Command(page.relative_to(ROOT).as_posix(), text)


def in_process(folder: Path, script: str, arguments: list[str]) -> tuple[int, str]:
    """Run a script of the project in a folder, as `python script arguments` does; exit status and what it printed."""
    before = sys.argv, os.getcwd()
    heard = io.StringIO()
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    try:
        sys.argv = [script, *arguments]
        os.chdir(folder)
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            try:
                runpy.run_path(str(ROOT / script), run_name="__main__")
            except SystemExit as end:
                return int(end.code or 0) if not isinstance(end.code, str) else 1, heard.getvalue()
        return 0, heard.getvalue()
    finally:
        sys.argv = before[0]
        os.chdir(before[1])


def shortened(arguments: list[str]) -> list[str]:
    """The arguments of a run with those of `SHORT` in place of its own."""
    return [word for word in arguments if word.split("=")[0] not in SHORT_KEYS] + list(SHORT)


def make_workspace(folder: Path) -> Path:
    """What the pages speak of, in small: shards, labels of them, faces, and the demo world."""
    people_shards(folder / "shards", [80, 60])
    children = [
        (f"child-{n:03d}", sample(n, None, f"a little {'girl' if n % 2 else 'boy'} plays {n}")) for n in range(40)
    ]
    write_tar(folder / "shards" / "train-00002.tar", children)
    for labels in ("attributes", "january", "june", "rows"):
        run(folder, "scripts/annotate.py", f"data.train=shards attributes=captions out={labels} workers=1")
    run(folder, "scripts/solve.py", "attributes=attributes out=plan")
    for held_out in ("faces.tar", "shards/held-out.tar"):
        people_shards(folder / "other", [30])
        (folder / "other" / "train-00000.tar").rename(folder / held_out)
    run(folder, "scripts/make_demo_shards.py", "--train 200 --quiet --workers 1 --out demo-data")
    from tests.hf_models import clip_folder  # transformers takes a second, which the list of commands does without

    clip_folder(folder / "my-clip")
    return folder


def make_runs(folder: Path, names: list[str]) -> None:
    """Train three tiny runs that stand for all that pages name: `mine` is on the reader's shards."""
    run(folder, "train.py", " ".join(["name=first", *SHORT]))
    run(folder, "train.py", " ".join(["name=own", "data=wds", "data.train=shards", "attributes=captions", *SHORT]))
    # A target that no model reaches, or the run could end where it begins.
    targets = ["stop.targets={rb_scenes/mean_parity:0.000001}", "stop.quality={}"]
    unlearn = ["experiment=unlearn", "name=unlearned", "model.init_from=runs/first", *targets]
    run(folder, "train.py", " ".join([*unlearn, *SHORT]))
    for name in names:
        kind = "own" if name == "mine" else "unlearned" if "unlearn" in name else "first"
        if not (folder / "runs" / name).exists():
            copy_tree(folder / "runs" / kind, folder / "runs" / name)
        path = folder / "runs" / name / "config.yaml"
        config = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**config, "name": name}))


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder; what is large and only ever replaced whole (checkpoints, shards) shares its place on the disk."""

    def copy(one: str, other: str) -> None:
        if one.endswith((".pt", ".tar")):
            os.link(one, other)
        else:
            shutil.copy2(one, other)

    shutil.copytree(source, target, symlinks=True, copy_function=copy)


def run(folder: Path, script: str, arguments: str) -> None:
    """Run a script that must succeed."""
    status, heard = in_process(folder, script, arguments.split())
    assert status == 0, f"{script} {arguments}\n{heard[-3000:]}"
