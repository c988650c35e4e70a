"""Notice when ranks wait for one that no longer moves: say who it is, and end the job instead of waiting for hours.

Each rank has a thread that tells the others, through the store by which torch.distributed started, what it does and
whether it moves (`balance.common.pulse`). A rank whose process is stopped tells nothing; one that is stuck tells that
it does not move. As long as any rank moves, as one that labels shards for the others does, nothing is said.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from balance.common.pulse import PULSE, Pulse
from balance.common.terminal import say
from balance.progress import format_seconds
from models.training.distributed import Processes

QUIET = 60.0
"""Seconds without progress on any rank after which it is said who is awaited."""
TELL = 5.0
"""Seconds between two messages of a rank to the others."""
SILENT = 3
"""Messages that a rank may miss before it counts as one that does not answer."""


@dataclass
class _Seen:
    """What one rank has told, and when (in this process's time) that changed."""

    told: dict[str, Any]
    answered: float
    moved: float


class Watchdog:
    """Watches all ranks from one of them.

    Args:
        rank: of this process.
        world: number of ranks.
        store: what ranks write to and read from, as torch.distributed's stores.
        timeout: seconds without progress on any rank after which the job ends.
        pulse: of this process.
        clock: monotonic seconds.
        speak: prints a sentence.
        end: ends this process at once; its main thread may never return from where it waits.
    """

    def __init__(
        self,
        rank: int,
        world: int,
        store: Any,
        timeout: float,
        *,
        pulse: Pulse = PULSE,
        clock: Callable[[], float] = time.monotonic,
        speak: Callable[[str], None] = say,
        end: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        self.rank, self.world, self.store, self.timeout = rank, world, store, timeout
        self.quiet = min(QUIET, timeout / 2)
        self.every = min(TELL, self.quiet / (2 * SILENT))
        self._pulse, self._clock, self._speak, self._end = pulse, clock, speak, end
        self._messages = 0
        self._seen: dict[int, _Seen] = {}
        self._heard = clock()  # when the store last answered
        self._said = 0  # times that waiting was mentioned since ranks last moved

    def exchange(self) -> None:
        """Tell the others where this rank is, and hear where they are."""
        self._messages += 1
        mine = {
            "message": self._messages,
            "beats": self._pulse.beats,
            "doing": self._pulse.doing,
            "waiting": self._pulse.waiting,
            "place": f"process {os.getpid()} on {socket.gethostname()}",
        }
        self.store.set(_key(self.rank), json.dumps(mine))
        before = self._seen.get(self.rank)
        # A rank that moves has nothing to ask: with many ranks the store would be busy with that alone.
        others = before is not None and before.told["beats"] == mine["beats"]
        known = self._present() if others else [self.rank]
        values = self.store.multi_get([_key(rank) for rank in known])
        self._heard = now = self._clock()
        for rank, value in zip(known, values, strict=True):
            told = json.loads(value)
            before = self._seen.get(rank)
            answered = before is None or told["message"] != before.told["message"]
            moved = before is None or told["beats"] != before.told["beats"]
            self._seen[rank] = _Seen(
                told,
                now if before is None or answered else before.answered,
                now if before is None or moved else before.moved,
            )

    def _present(self) -> list[int]:
        """The ranks that have told anything yet."""
        everyone = list(range(self.world))
        if self.store.check([_key(rank) for rank in everyone]):
            return everyone
        return [rank for rank in everyone if self.store.check([_key(rank)])]

    def judge(self) -> None:
        """Say who is awaited once no rank has moved for a while; end the job after the timeout."""
        now = self._clock()
        if not self._seen:
            return
        still = now - max(seen.moved for seen in self._seen.values())
        if still < self.quiet:
            self._said = 0
            return
        sentence = self._awaited(now)
        if sentence is None:
            return
        if still >= self.timeout:
            self._speak(
                f"No rank has made progress for {format_seconds(still)} (distributed.timeout): {sentence} The job "
                "ends here; resume=true goes on from the last checkpoint."
            )
            self._end()
        elif self._first_to_answer(now) and still >= self.quiet * 2**self._said:  # after 1, 2, 4, ... minutes
            self._said += 1
            left = format_seconds(self.timeout - still)
            self._speak(
                f"No rank has made progress for {format_seconds(still)}: {sentence} The job ends in {left} if that "
                "goes on (distributed.timeout)."
            )

    def _awaited(self, now: float) -> str | None:
        """Who keeps the others waiting; None if no rank waits for another."""
        if now - self._heard > SILENT * self.every + self.quiet / 2:
            return "the process that started torch.distributed's store does not answer."
        silent = {rank for rank in self._seen if self._silent(rank, now)}
        waiting = {rank for rank, seen in self._seen.items() if seen.told["waiting"] and rank not in silent}
        if not waiting:
            return None
        busy = self._seen.keys() - silent - waiting
        awaited = sorted(silent or busy)
        if not awaited:
            return (
                f"all {self.world} ranks wait for each other, the first in: {self._seen[min(waiting)].told['doing']}."
            )
        shown = ", ".join(self._place(rank) for rank in awaited[:3])
        more = f" and {len(awaited) - 3} more" if len(awaited) > 3 else ""
        problem = "not answering" if silent else "busy without progress"
        return f"{len(waiting)} of {self.world} wait for {shown}{more}, {problem}."

    def _silent(self, rank: int, now: float) -> bool:
        return rank != self.rank and now - self._seen[rank].answered > SILENT * self.every

    def _first_to_answer(self, now: float) -> bool:
        return self.rank == min(rank for rank in self._seen if not self._silent(rank, now))

    def _place(self, rank: int) -> str:
        told = self._seen[rank].told
        return f"rank {rank} ({told['place']}; {told['doing']})"


def _key(rank: int) -> str:
    return f"counterbalance/pulse/{rank}"


@contextmanager
def watching(processes: Processes, timeout: float) -> Iterator[None]:
    """Watch the ranks while the block runs.

    Args:
        processes: those that train together; nothing is watched if there is one.
        timeout: seconds without progress on any rank after which the job ends with status 1.
    """
    if processes.world == 1:
        yield
        return
    dog = Watchdog(processes.rank, processes.world, _store(), timeout)
    over = threading.Event()
    # Two threads: where the store's own process is stopped, the exchange hangs, and that must be noticed, too.
    for work in (dog.exchange, dog.judge):
        threading.Thread(target=_repeat, args=(work, over, dog.every), daemon=True, name="watchdog").start()
    try:
        yield
    finally:
        over.set()


def _repeat(work: Callable[[], None], over: threading.Event, every: float) -> None:
    while not over.wait(every):
        try:
            work()
        except RuntimeError:  # the store is gone: another rank has ended, and the launcher ends this one
            return


def _store() -> Any:
    """By which torch.distributed started; torch has no public name for it."""
    return dist.distributed_c10d._get_default_store()
