"""A run's folder from the first touch to the run's end: one writer; and until the first step, nothing that stays.

While a run starts, its folder holds `.starting`, which names what lay there before, and a run that it replaces lies
beside it as `.<name>.overwritten`. The first step removes both. A start that does not get so far takes back what it has
written, and brings the old run back; where it was killed, the next start of this name does so.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from balance.common.documents import read_document
from balance.common.terminal import say
from balance.common.writer import only_writer
from balance.errors import UserError
from balance.files import discard, remove_abandoned, write_whole
from conf.app.run import STARTING, aside_of, check_run, is_free, made_up_names, not_begun, write_config
from conf.app.schema import Config
from models.training.distributed import Processes


class RunFolder:
    """The folder of a run. The process that writes opens it, under its lock; to others it is only a path.

    Used as a context, it is left as it was found if the block fails before `begun` is called.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._aside = aside_of(path)
        self._marker = path / STARTING
        self._before: set[str] = set()  # what lay there before the run was started
        self._starts = self._replaces = False

    def open(self, config: Config) -> None:
        """Make the folder with `config.yaml` inside, or find it.

        Raises:
            UserError: the name is taken, or there is nothing to go on with.
            OSError: it can't be written.
        """
        saved = self.path / "config.yaml"
        remove_abandoned(self.path.parent)
        goes_on = config.resume and saved.is_file()
        if not goes_on:
            self._put_right()
        check_run(config)  # again: another start may have come between
        if self._marker.is_file():  # of a start that was killed, and is gone on with
            self._starts, self._before = True, self._read_marker()
            self._replaces = self._aside.exists()
        elif self._aside.exists():
            say(f"note: a run that {self.path} was to replace still lies in {self._aside}; rename or delete it.")
        if not goes_on and self.path.exists() and not not_begun(self.path):
            if self._aside.exists():
                discard(self._aside)
            self.path.rename(self._aside)
            self._replaces = True
        if not saved.is_file():
            self.path.mkdir(parents=True, exist_ok=True)
            self._before = {path.name for path in self.path.iterdir()}
            self._starts = True
            write_whole(self._marker, json.dumps(sorted(self._before)))
            write_config(config, self.path.name, self.path)

    def begun(self) -> None:
        """The first step has been made: from now on the run stays, and the one that it replaces goes."""
        if self._starts:
            self._marker.unlink(missing_ok=True)
        if self._replaces:
            discard(self._aside)
        self._starts = self._replaces = False

    def give_back(self) -> None:
        """Leave everything as it was before the start."""
        if self._starts:
            self._clear(self._before)
        if self._replaces and not self.path.exists():
            self._aside.rename(self.path)
        self._starts = self._replaces = False

    def _put_right(self) -> None:
        """Do for a start that was killed what it could not do itself."""
        if self._marker.is_file():
            self._clear(self._read_marker())
        if not self._aside.exists():
            return
        with suppress(OSError):  # the folder that was just made, empty yet
            self.path.rmdir()
        if not self.path.exists():
            self._aside.rename(self.path)
            say(f"note: {self.path} is back: a start that was to overwrite it was killed before its first step.")

    def _clear(self, keep: set[str]) -> None:
        for path in list(self.path.iterdir()) if self.path.is_dir() else []:
            if path.name not in keep | {STARTING}:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        self._marker.unlink(missing_ok=True)  # last: what is stopped in the midst is taken up again
        with suppress(OSError):
            self.path.rmdir()

    def _read_marker(self) -> set[str]:
        what = "the list of what lay in a run's folder before the run"
        found = read_document(self._marker, what, f"see what of {self.path} you need, and delete the folder")
        return {str(name) for name in found} if isinstance(found, list) else set()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.begun()
            return
        unbegun = self._starts
        with suppress(OSError):  # the next start does it
            self.give_back()
        if unbegun and isinstance(error, KeyboardInterrupt):
            error.args = (f"Stopped before the first step; the name {self.path.name} is free again.",)


@contextmanager
def run_folder(config: Config, processes: Processes) -> Iterator[RunFolder]:
    """The folder of a run on all processes, of which the first alone writes into it; `config.name` is set.

    Raises:
        UserError: another start or run has it, the name is taken, or there is nothing to go on with; on all processes.
        OSError: it can't be written; likewise.
    """
    folder: RunFolder | None = None
    with ExitStack() as held:

        def claim() -> str:
            nonlocal folder
            folder = _claim(config, held)
            return folder.path.name

        config.name = processes.by_first(claim)
        yield folder or RunFolder(Path(config.runs) / config.name)


def _claim(config: Config, held: ExitStack) -> RunFolder:
    """Lock the folder of a run, and open it; without a name, the first of those that come into question."""
    for name in made_up_names(config) if config.name is None else [config.name]:
        path = Path(config.runs) / name
        if config.name is None and not is_free(path):
            continue
        try:
            held.enter_context(only_writer(path))
        except UserError:
            if config.name is None:
                continue
            raise
        config.name = name
        folder = held.enter_context(RunFolder(path))
        folder.open(config)
        return folder
    raise AssertionError("names are made up without end")
