"""One progress line for long work: rate and time left; a live bar in a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from balance.common.pulse import PULSE
from balance.common.terminal import terminal, visible


def format_seconds(seconds: float) -> str:
    """A duration as `12 s`, `3:05` or `2:10:00`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class ProgressLine:
    """Progress towards a known total, used as a context.

    Args:
        label: what is being done.
        total: how many units there are.
        unit: name of a unit, for the rate.
        start: units already done, which do not count for the rate.
        shown: False says nothing at all.
        interval: seconds between plain lines when the output is no terminal.
    """

    def __init__(
        self, label: str, total: int, unit: str = "samples", start: int = 0, shown: bool = True, interval: float = 15.0
    ) -> None:
        self.label, self.total, self.unit, self.done, self.first = visible(label), total, unit, start, start
        self.shown, self.interval = shown, interval
        self._bar: Progress | None = None
        self._since = self._last = time.monotonic()
        if shown and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._bar = Progress(*columns, console=terminal(stderr=True), transient=False)
            self._task = self._bar.add_task(self.label, total=total, completed=start, note="")

    def __enter__(self) -> "ProgressLine":
        PULSE.beat(self.label)
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.shown and kind is None:
            print(f"{self.label}: {self._note('')}", file=sys.stderr, flush=True)

    def update(self, amount: int, note: str = "") -> None:
        """Add finished units, with a few words to show beside the rate."""
        self.done += amount
        PULSE.beat()
        if not self.shown:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self._note(note))
        elif time.monotonic() - self._last >= self.interval:
            self._last = time.monotonic()
            print(f"{self.label}: {self._note(note)}", file=sys.stderr, flush=True)

    def _note(self, note: str) -> str:
        elapsed = time.monotonic() - self._since
        rate = (self.done - self.first) / max(elapsed, 1e-9)
        left = format_seconds((self.total - self.done) / rate) if rate > 0 else "?"
        timing = f"ETA {left}" if self.done < self.total else f"in {format_seconds(elapsed)}"
        parts = [f"{self.done:,}/{self.total:,} {self.unit}", f"{rate:,.0f}/s", timing]
        return ", ".join([*parts, note] if note else parts)
