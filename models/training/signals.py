"""Stop at a step's end when asked to, instead of in its midst."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Note the first SIGINT or SIGTERM, so that the step in progress ends; a second one acts as usual."""
    received: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])
        print("\nStopping after this step; a checkpoint will be written.", file=sys.stderr, flush=True)

    for wanted in (signal.SIGINT, signal.SIGTERM):
        before[wanted] = signal.signal(wanted, note)
    try:
        yield received
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
