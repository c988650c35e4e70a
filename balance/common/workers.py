"""Starting worker processes that are neither forked nor lost when a signal comes."""

import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

T = TypeVar("T")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def too_many_workers(workers: int) -> str:
    """A sentence where loader workers, over all processes of this machine, are more than its cores; or nothing."""
    if workers <= cores():
        return ""
    return f"{workers} loader workers would share {cores()} core(s), which is slower than fewer; lower data.workers."


@contextmanager
def starting_workers(task: Any) -> Iterator[None]:
    """Start processes in this block, as `multiprocessing` does with `forkserver` or `spawn`; it must be short.

    They import the main module only where their task is defined there: `train.py` would load torch in each, one after
    the other, for seconds. SIGINT and SIGTERM wait until the block ends, since a process that is just starting is not
    known yet, and would be left over.

    Args:
        task: what they are given.
    """
    needs_main = b"__main__" in pickle.dumps(task)
    with _signals_held_back(), nullcontext() if needs_main else _main_left_out():
        yield


@contextmanager
def _main_left_out() -> Iterator[None]:
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(kept)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Not by a mask, which the processes would inherit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


def as_done(futures: Iterable[Future[T]]) -> Iterator[Future[T]]:
    """Futures in the order in which they end.

    Wakes up every second: a signal that the system gives to another thread does not interrupt this one's wait.
    """
    left = set(futures)
    while left:
        done, left = wait(left, timeout=1.0, return_when=FIRST_COMPLETED)
        yield from done
