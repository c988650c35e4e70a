"""Run one command in this process as a terminal would, and report whatever no input may cause.

Python's audit events show processes that are started and files that are touched; a timer ends what hangs; the kernel's
high-water mark shows memory.
"""

import io
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

SECONDS = 10  # of computing; a busy machine is no fault
WAITING = 60  # seconds by the clock, for what waits without computing
MEMORY = 1 << 30  # bytes above what the process held before
CEILING = 3 << 30  # bytes of address space above, so that a runaway allocation cannot hurt the machine

PROCESS_EVENTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"}
WRITING_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
# Caches of libraries, which no input names.
HARMLESS = ("__pycache__", "/dev/", "/proc/", ".cache/", "matplotlib", "torchinductor", "torch_")


class Hang(BaseException):
    """Raised by the timer; no `except Exception` catches it."""


@dataclass
class Outcome:
    """What became of one command.

    Attributes:
        status: its exit status; None if it did not come to one.
        text: standard output and error together.
        faults: what no input may cause, one line each.
    """

    status: int | None = None
    text: str = ""
    faults: list[str] = field(default_factory=list)


class _Watch:
    """The audit hook, which Python never removes again; it looks only while `root` is set."""

    def __init__(self) -> None:
        self.root: Path | None = None
        self.seen: list[str] = []
        self.installed = False

    def install(self) -> None:
        if not self.installed:
            sys.addaudithook(self)
            self.installed = True

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root is None:
            return
        if event in PROCESS_EVENTS and not (event == "subprocess.Popen" and arguments[0] == "git"):  # provenance's
            self.seen.append(f"process started: {event} {str(arguments)[:200]}")
        elif event in WRITING_EVENTS:
            # The first path of a rename or link, both of the pair.
            for path in arguments[:2]:
                self._check(event, path)
        elif event == "open" and len(arguments) == 3 and self._writes(arguments[1], arguments[2]):
            self._check(event, arguments[0])

    @staticmethod
    def _writes(mode: Any, flags: Any) -> bool:
        if isinstance(mode, str):
            return any(letter in mode for letter in "wax+")
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    def _check(self, event: str, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        text = os.path.abspath(os.fsdecode(path))
        inside = f"{text}{os.sep}".startswith(f"{self.root}{os.sep}")
        if not inside and not any(part in text for part in HARMLESS):
            self.seen.append(f"file outside the named folders: {event} {text}")


_WATCH = _Watch()


def attempt(command: Callable[[], Any], argv: list[str], root: Path, seconds: float = SECONDS) -> Outcome:
    """Run a command with these arguments inside `root`, which is its working directory, too.

    Args:
        command: runs and exits by SystemExit, as under `if __name__ == "__main__"`.
        argv: of the program, its name first.
        root: the only folder it may write to.
        seconds: after which it hangs.
    """
    outcome, told = Outcome(), io.StringIO()
    _WATCH.install()
    _WATCH.seen = []
    before = _memory("VmRSS")
    (root / "tmp").mkdir(exist_ok=True)
    places = mock.patch.object(tempfile, "tempdir", str(root / "tmp"))
    with _limits(seconds), _inside(root), places, mock.patch.object(sys, "argv", argv):
        try:
            with redirect_stdout(told), redirect_stderr(told):
                _WATCH.root = root.resolve()
                command()
                outcome.status = 0
        except SystemExit as end:
            outcome.status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except Hang:
            outcome.faults.append(
                f"hang: more than {seconds} s of computing, or {WAITING} s, in {_place(sys.exc_info()[2])}"
            )
        except BaseException as error:
            place = _place(error.__traceback__)
            outcome.faults.append(f"traceback: {type(error).__name__}: {str(error)[:200]} in {place}")
        finally:
            _WATCH.root = None
    outcome.text = told.getvalue()
    if any((root / "tmp").iterdir()):
        outcome.faults.append("temporary files are left")
    outcome.faults += list(dict.fromkeys(_WATCH.seen))
    grown = _memory("VmHWM") - before
    if grown > MEMORY:
        outcome.faults.append(f"memory: {grown / 2**20:.0f} MiB")
    if "Traceback (most recent call last)" in outcome.text:
        lines = [line for line in outcome.text.splitlines() if line and line[0] != " " and "HYDRA" not in line]
        outcome.faults.append(f"traceback printed: {lines[-1][:200]}")
    if outcome.status in (1, 2) and not _sentence(outcome.text):
        outcome.faults.append("refused without a sentence")
    return outcome


def _sentence(text: str) -> bool:
    return any(line.startswith("error: ") and len(line) > 20 for line in text.splitlines())


def _place(trace: Any) -> str:
    frames = traceback.extract_tb(trace)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "/lib/python" not in frame.filename]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(own[-4:]))


@contextmanager
def _limits(seconds: float) -> Iterator[None]:
    """A timer, and a ceiling on memory, which is also reset to be measured anew."""
    Path("/proc/self/clear_refs").write_text("5")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + CEILING, hard))

    def ring(*_: Any) -> None:
        raise Hang

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, seconds), signal.ITIMER_REAL: (signal.SIGALRM, WAITING)}
    previous = {number: signal.signal(number, ring) for number, _ in timers.values()}
    for timer, (_, after) in timers.items():
        signal.setitimer(timer, after)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0
