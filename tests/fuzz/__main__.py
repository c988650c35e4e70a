"""Put mutated inputs through the commands, and list what no input may cause.

    python -m tests.fuzz [n=10000] [seed=0] [workers=2] [out=fuzz.jsonl] [only=<generator>]

Every input ends in samples, in counted causes, or in one sentence with status 1 or 2: no traceback, no hang over 10 s,
no more than 1 GiB of memory, no process started, no file outside the folders that were named. The seeds from `seed` on
are taken; `n=1 seed=<seed>` repeats one. Exit status 1 if anything was found.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; a pool of threads does not survive a fork
os.environ.update(WANDB_MODE="disabled", HF_HUB_OFFLINE="1", MPLBACKEND="Agg")

import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.fuzz.cases import make_base
from tests.fuzz.pool import run_seeds


def main(arguments: list[str]) -> int:
    """Run, and print the findings and a table."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    options = {
        "n": "10000",
        "seed": "0",
        "workers": "2",
        "out": "",
        "only": "",
        **dict(one.split("=", 1) for one in arguments),
    }
    first = int(options["seed"])
    ended, found, began = Counter[str](), [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        folder = Path(place)
        base = make_base(folder / "base")
        out = open(options["out"], "w", encoding="utf-8") if options["out"] else None  # noqa: SIM115
        done = 0
        seeds = range(first, first + int(options["n"]))
        for result in run_seeds(seeds, base, folder, int(options["workers"]), options["only"]):
            done += 1
            ended.update([f"{result.generator}: {one}" for one in result.ended])
            if out:
                print(json.dumps(asdict(result)), file=out, flush=True)
            if result.faults:
                found.append(result)
                print(f"seed {result.seed} ({result.generator}): " + "\n  ".join(result.faults), flush=True)
            if done % 200 == 0:
                print(
                    f"{done} inputs, {done / (time.monotonic() - began):.1f} a second, {len(found)} found", flush=True
                )
    for name, count in sorted(ended.items()):
        print(f"{count:7,}  {name}")
    print(f"{done:,} inputs, seeds {first} to {first + done - 1}: {len(found)} with a finding")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
