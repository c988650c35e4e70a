"""What this process does at the moment, and that it moves: counted here by all long work, watched while ranks train."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Pulse:
    """One process's progress.

    Attributes:
        beats: how often work has moved on.
        doing: what the process works at, in a few words.
        waiting: whether it waits for other ranks.
    """

    beats: int = 0
    doing: str = "starting"
    waiting: bool = False

    def beat(self, doing: str | None = None) -> None:
        """Work has moved on, or another kind of work begins."""
        self.beats += 1
        if doing is not None:
            self.doing = doing

    @contextmanager
    def wait(self) -> Iterator[None]:
        """While the process waits for other ranks, or may have to."""
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False
            self.beat()


PULSE = Pulse()
"""Of this process."""
