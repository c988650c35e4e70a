"""Put many seeds through their commands: in forks of one process that has imported everything, watched from outside."""

import json
import os
import runpy
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.cases import Base, make_case
from tests.fuzz.sandbox import WAITING, attempt

ROOT = Path(__file__).resolve().parents[2]
STUCK = 3 * WAITING  # without a result: hung where no timer of Python's reaches


@dataclass
class Result:
    """What became of one seed.

    Attributes:
        seed: of the input.
        generator: that wrote it.
        ended: for each command its name and status.
        faults: what must not happen, with the command.
        text: what the commands said last.
    """

    seed: int
    generator: str
    ended: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    text: str = ""


def run_seed(seed: int, base: Base, folder: Path, only: str = "") -> Result:
    """Write the input of a seed, run its commands, and clear up."""
    root = folder / f"seed-{seed}"
    root.mkdir(parents=True)
    try:
        generator, commands = make_case(seed, base, root, only)
        result = Result(seed, generator)
        for program, arguments in commands:
            outcome = attempt(lambda p=program: _run(p), [str(ROOT / program), *map(str, arguments)], root)
            result.ended.append(f"{Path(program).stem} {outcome.status}")
            result.faults += [f"{program} {' '.join(map(str, arguments))[:600]}: {fault}" for fault in outcome.faults]
            if outcome.faults or outcome.status:
                result.text = outcome.text[-600:]
            if (root / "pwned").exists():
                result.faults.append(f"{program}: a command of the input ran")
        return result
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _run(program: str) -> None:
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    runpy.run_path(str(ROOT / program), run_name="__main__")


def _work(seeds: Sequence[int], base: Base, folder: Path, log: Path, only: str) -> None:
    """The results of these seeds, a line each, into a file."""
    with open(log, "a", encoding="utf-8") as file:
        for seed in seeds:
            file.write(json.dumps({"begun": seed}) + "\n")
            file.flush()
            file.write(json.dumps(asdict(run_seed(seed, base, folder, only))) + "\n")
            file.flush()


def _fork(seeds: Sequence[int], base: Base, folder: Path, log: Path, only: str) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        _work(seeds, base, folder, log, only)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _read(log: Path) -> list[dict[str, Any]]:
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def run_seeds(seeds: Sequence[int], base: Base, folder: Path, workers: int = 1, only: str = "") -> Iterator[Result]:
    """The results of all seeds, as they come; a worker that hangs or dies is replaced, and its seed blamed."""
    shares = {number: list(seeds[number::workers]) for number in range(workers)}
    logs = {number: folder / f"worker-{number}.jsonl" for number in shares}
    read = Counter[int]()
    heard = {number: time.monotonic() for number in shares}
    children = {number: _fork(share, base, folder, logs[number], only) for number, share in shares.items() if share}
    while children:
        time.sleep(0.2)
        for number, child in list(children.items()):
            rows = _read(logs[number])
            for row in rows[read[number] :]:
                heard[number] = time.monotonic()
                if "generator" in row:
                    yield Result(**row)
            read[number] = len(rows)
            ended = os.waitpid(child, os.WNOHANG)
            stuck = time.monotonic() - heard[number] > STUCK
            if ended == (0, 0) and not stuck:
                continue
            if stuck:
                os.kill(child, signal.SIGKILL)
                ended = os.waitpid(child, 0)
            rows = _read(logs[number])
            for row in rows[read[number] :]:
                if "generator" in row:
                    yield Result(**row)
            read[number] = len(rows)
            del children[number]
            if rows and "begun" in rows[-1]:
                seed = rows[-1]["begun"]
                why = f"hang: no answer for {STUCK} s" if stuck else f"the process died with status {ended[1]}"
                yield Result(seed, "?", [], [why])
                shutil.rmtree(folder / f"seed-{seed}", ignore_errors=True)
                share = shares[number] = shares[number][shares[number].index(seed) + 1 :]
                if share:
                    heard[number] = time.monotonic()
                    children[number] = _fork(share, base, folder, logs[number], only)
