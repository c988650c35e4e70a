"""One attempt at a run, in forks of this process that die when they are told to."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITING = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}
GRACE = 60.0  # seconds that the other ranks have to end after one died
PATIENCE = 300.0  # seconds that any attempt may take


@dataclass(frozen=True)
class Death:
    """When a rank dies: at its n-th file event in the run's folders, or after so many seconds; never by default."""

    event: int | None = None
    seconds: float | None = None
    rank: int = 0

    def __str__(self) -> str:
        when = f"at file event {self.event}" if self.event is not None else f"after {self.seconds:.2f} s"
        return f"rank {self.rank} {when}"


class _Counter:
    """An audit hook that counts what is done to files below a folder, and kills the process at a number."""

    def __init__(self, below: Path, at: int | None) -> None:
        self.below, self.at, self.count = f"{below}{os.sep}", at, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        path: Any = arguments[0] if arguments else None
        if event == "open":
            mode, flags = arguments[1], arguments[2]
            writes = (
                any(letter in mode for letter in "wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
            )
            if not writes:
                return
        elif event not in WRITING:
            return
        if not isinstance(path, str | bytes | os.PathLike) or not os.path.abspath(os.fsdecode(path)).startswith(
            self.below
        ):
            return
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def run_once(
    overrides: Sequence[str], runs: Path, world: int = 1, death: Death | None = None
) -> tuple[list[int], str, int]:
    """Run `train.py` with these overrides in `world` forked ranks.

    Returns:
        The exit status of each rank, negative for a signal; what they said; and the file events of rank 0, if it ended
        by itself.
    """
    said, counted = runs.parent / "said.txt", runs.parent / "events.txt"
    said.write_text("")
    counted.unlink(missing_ok=True)
    port = _free_port()
    children = [_fork(overrides, runs, rank, world, port, death, said, counted) for rank in range(world)]
    statuses = _wait(children)
    events = int(counted.read_text()) if counted.is_file() and counted.read_text() else 0
    return statuses, said.read_text(encoding="utf-8", errors="replace"), events


def _fork(
    overrides: Sequence[str],
    runs: Path,
    rank: int,
    world: int,
    port: int,
    death: Death | None,
    said: Path,
    counted: Path,
) -> int:  # more than eight: what a fork takes over from its parent
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        output = os.open(said, os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if world > 1:
            addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            os.environ.update({**addresses, **{key: str(number) for key, number in numbers.items()}})
        mine = death if death is not None and death.rank == rank else None
        counter = _Counter(runs, mine.event if mine else None)
        sys.addaudithook(counter)
        if mine is not None and mine.seconds is not None:
            timer = threading.Timer(mine.seconds, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        status = _train(overrides)
        if rank == 0:
            counted.write_text(str(counter.count))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _train(overrides: Sequence[str]) -> int:
    """What `python train.py ...` does, errors included; its exit status."""
    import train
    from conf.app.cli import launch

    sys.argv = ["train.py", *overrides]
    try:
        launch(train.main)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def _wait(children: list[int]) -> list[int]:
    """Wait for all; once one died the others are ended, as a launcher does."""
    statuses: dict[int, int] = {}
    began, fallen = time.monotonic(), None
    while len(statuses) < len(children):
        for child in children:
            if child not in statuses and (ended := os.waitpid(child, os.WNOHANG)) != (0, 0):
                statuses[child] = os.waitstatus_to_exitcode(ended[1])
                if statuses[child] and fallen is None:
                    fallen = time.monotonic()
                    _signal([one for one in children if one not in statuses], signal.SIGTERM)
        late = time.monotonic() - began > PATIENCE or (fallen is not None and time.monotonic() - fallen > GRACE)
        if late:
            _signal([one for one in children if one not in statuses], signal.SIGKILL)
        time.sleep(0.02)
    return [statuses[child] for child in children]


def _signal(children: list[int], number: int) -> None:
    for child in children:
        os.kill(child, number)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
