"""Draw the demo world: small pictures with captions as WebDataset shards, from a joint distribution that is known."""

import argparse
import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from balance.errors import UserError
from conf.app.command import run_command
from scripts.demo_world.config import load_world
from scripts.demo_world.write import make_world

WORLD = Path(__file__).resolve().parent / "demo_world" / "skewed.yaml"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("demo-data"), help="folder to make (default: demo-data)")
    parser.add_argument("--world", type=Path, default=WORLD, help="joint distribution, YAML")
    parser.add_argument("--train", type=int, default=16000, help="training pairs (default: 16000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; the bytes are the same")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    began = time.perf_counter()
    if args.train < 1 or args.workers < 1:
        raise UserError("--train and --workers should be at least 1")
    made = make_world(load_world(args.world), args.out, args.train, args.seed, args.workers, args.quiet)
    took = f"made in {time.perf_counter() - began:.0f} s" if made else "already there, unchanged"
    print(f"{args.out}: {took}")


if __name__ == "__main__":
    run_command(main)
