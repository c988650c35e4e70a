"""Run tasks in processes of their own, started from a clean one: what the tests hold (CUDA, threads) is not forked."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

PRELOAD = ["train", "conf.app.cli", "tests.launching", "balance.labels.annotators"]
_servers: list[int] = []


def apart(task: Callable[..., int | None], *arguments: Any) -> BaseProcess:
    """A process, not started yet, that runs a task and exits with its status.

    It forks from a server that has imported `train` and has done nothing else: it starts in milliseconds, where a
    spawned one would import torch for seconds. It knows the environment as it was when the first of its kind started,
    and its task can be pickled.
    """
    context = multiprocessing.get_context("forkserver")
    if _servers != [os.getpid()]:
        # Labelling on several processes starts a server, too, with fewer modules; there can be only one.
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
        _servers[:] = [os.getpid()]
    context.set_forkserver_preload(PRELOAD)
    return context.Process(target=_alone, args=(task, *arguments))


def _alone(task: Callable[..., int | None], *arguments: Any) -> None:
    multiprocessing.set_start_method(None, force=True)  # as in a command, for its loader workers
    os._exit(task(*arguments) or 0)


def free_port() -> int:
    """A port of the loopback address that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(
    count: int,
    task: Callable[..., int | None],
    *arguments: Any,
    patience: float = 300,
    linger: float = 300,
    ranks: str = "torchrun",
) -> list[int | None]:
    """Run a task on processes that can train together.

    Args:
        count: number of processes.
        task: takes the arguments and gives an exit status.
        arguments: of the task.
        patience: seconds after which those that hang are killed.
        linger: seconds that the others may live on after the first has ended.
        ranks: whose variables tell each process its rank: torchrun or mpi.

    Returns:
        Their exit codes, None for those that were killed for hanging.
    """
    port = free_port()
    processes = []
    for rank in range(count):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **VARIABLES[ranks](rank, count)}
        processes.append(apart(_one_of, place, task, *arguments))
        processes[-1].start()
    end = time.monotonic() + patience
    codes: list[int | None] = []
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        end = min(end, time.monotonic() + linger)
        codes.append(process.exitcode)
        process.kill()
    return codes


VARIABLES: dict[str, Callable[[int, int], dict[str, int]]] = {
    "torchrun": lambda rank, count: {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count},
    "mpi": lambda rank, count: {
        **{f"OMPI_COMM_WORLD_{name}": rank for name in ("RANK", "LOCAL_RANK")},
        **{f"OMPI_COMM_WORLD_{name}": count for name in ("SIZE", "LOCAL_SIZE")},
    },
}


def _one_of(place: dict[str, Any], task: Callable[..., int | None], *arguments: Any) -> int | None:
    os.environ.update({name: str(value) for name, value in place.items()})
    return task(*arguments)
