"""Draw the demo world: small pictures with captions as WebDataset shards, from a joint distribution that is known."""

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the folder of the checkout, to find the package beside this file

from balance.errors import UserError  # noqa: E402
from scripts.demo_world.config import load_world  # noqa: E402
from scripts.demo_world.write import make_world  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("demo-data"), help="folder to make (default: demo-data)")
    parser.add_argument("--world", type=Path, default=ROOT / "conf/world/skewed.yaml", help="joint distribution, YAML")
    parser.add_argument("--train", type=int, default=16000, help="training pairs (default: 16000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; the bytes are the same")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    try:
        if args.train < 1 or args.workers < 1:
            raise UserError("--train and --workers should be at least 1")
        made = make_world(load_world(args.world), args.out, args.train, args.seed, args.workers, args.quiet)
    except UserError as error:
        print(f"make_demo_shards: {error}", file=sys.stderr)
        return 2
    took = f"made in {time.perf_counter() - start:.0f} s" if made else "already there, unchanged"
    print(f"{args.out}: {took}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
