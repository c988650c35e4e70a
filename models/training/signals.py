"""Stop at a step's end when asked to, instead of in its midst."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ONE_REQUEST = 3.0
"""Seconds in which signals are one request: a launcher passes on to its ranks what they have received themselves."""


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Note the first SIGINT or SIGTERM, so that the step in progress ends; one that comes later acts as usual."""
    received: list[int] = []
    first = 0.0
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: object) -> None:
        nonlocal first
        if not received:
            received.append(number)
            first = time.monotonic()
            print("\nStopping after this step; a checkpoint will be written.", file=sys.stderr, flush=True)
        elif time.monotonic() - first > ONE_REQUEST:
            usual = before[signal.Signals(number)]
            signal.signal(number, usual)
            signal.raise_signal(number)

    for wanted in (signal.SIGINT, signal.SIGTERM):
        before[wanted] = signal.signal(wanted, note)
    try:
        yield received
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
