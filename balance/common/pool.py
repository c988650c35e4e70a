"""The same work on many things, in processes of their own; each result as soon as it is there."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from balance.common.workers import as_done, starting_workers

Task = TypeVar("Task")
Item = TypeVar("Item")
Result = TypeVar("Result")

_work: Callable[[Any, Any], Any] | None = None
_task: Any = None


def in_processes(
    work: Callable[[Task, Item], Result],
    task: Task,
    items: Sequence[Item],
    workers: int,
    tidy: Callable[[], None],
    preload: str,
) -> Iterator[Result]:
    """Do `work(task, item)` for each item; results as they get done, in any order.

    Args:
        work: a function of a module.
        task: what is sent to each process once.
        items: what is worked on.
        workers: processes; 0 works in this one.
        tidy: is called when a signal has ended the processes in the middle of their work.
        preload: module that processes share: it is imported once, not by each.

    Raises:
        Exception: what `work` raises; no more items are begun.
    """
    if workers == 0 or len(items) < 2:
        for item in items:
            yield work(task, item)
        return
    # Not forked: the parent may hold threads, whose locks a fork copies in whatever state they are.
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload([preload])
    with (
        ProcessPoolExecutor(
            min(workers, len(items)), mp_context=context, initializer=_start_worker, initargs=(work, task)
        ) as pool,
        _cancelled_on_error(pool, tidy),
    ):
        with starting_workers(task):
            futures = [pool.submit(_do, item) for item in items]
        for future in as_done(futures):
            yield future.result()


def _start_worker(work: Callable[[Any, Any], Any], task: Any) -> None:
    global _work, _task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all, and the first process ends its workers
    _work, _task = work, task


def _do(item: Any) -> Any:
    assert _work is not None
    return _work(_task, item)


@contextmanager
def _cancelled_on_error(pool: ProcessPoolExecutor, tidy: Callable[[], None]) -> Iterator[None]:
    """Begin nothing more after an error; after a signal end what is in work, too, whose halves go."""
    others = set(multiprocessing.active_children())
    try:
        yield
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        if not isinstance(error, Exception):  # or when the one who asked for the results has met it
            workers = [child for child in multiprocessing.active_children() if child not in others]
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.join()
            tidy()
        raise
