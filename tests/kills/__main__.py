"""Kill runs at random file events and moments, on one and two processes, and on a full disk; then let them go on.

    python -m tests.kills [n=100] [seed=0] [folder=<folder>]

`n` counts kills. Each run is killed up to three times: in labelling, training, writing a checkpoint, evaluating or
drawing a page, as it falls; then it ends, and must equal the undisturbed run bit for bit, with no file left over or
missing. Every tenth is not killed but runs on a full disk. Exit status 1 if anything was found.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; a pool of threads does not survive a fork
os.environ.update(WANDB_MODE="disabled", MPLBACKEND="Agg")

import sys
import tempfile
from pathlib import Path

from tests.kills.campaign import Campaign


def main(arguments: list[str]) -> int:
    """Run, and print what was found."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    options = {"n": "100", "seed": "0", "folder": "", **dict(one.split("=", 1) for one in arguments)}
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        campaign = Campaign(Path(options["folder"] or place).absolute())
        seed, kills, full, faults, runs = int(options["seed"]), 0, 0, 0, 0
        while kills < int(options["n"]):
            try:
                report = campaign.fill(seed) if seed % 10 == 9 else campaign.disturb(seed)
            except PermissionError as error:
                print(f"seed {seed}: left out, {error}")
                seed += 1
                continue
            runs, seed, faults = runs + 1, seed + 1, faults + bool(report.faults)
            kills += len(report.deaths)
            full += sum(death.startswith("disk") for death in report.deaths)
            print(
                f"seed {report.seed}, {report.world} rank(s): {'; '.join(report.deaths) or 'ended before'}", flush=True
            )
            for fault in report.faults:
                print(f"  FOUND: {fault}", flush=True)
    print(f"{runs} runs, {kills} kills, {full} of them by a full disk: {faults} runs with a finding")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
