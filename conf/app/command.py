"""A command of the terminal: its options, its help, and bad input told in one sentence."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import yaml

from balance.common.faults import BAD_MACHINE, explain
from balance.common.terminal import visible
from balance.errors import UserError

TRACEBACK = "COUNTERBALANCE_TRACEBACK"
"""The variable of the environment that shows where an error came from, too."""


def run_command(
    main: Callable[[list[str]], int | None], text: str | None = None, bare: bool = True, keys: bool = True
) -> NoReturn:
    """Run a command with the arguments of the command line, and exit with its status.

    Args:
        main: takes the arguments and gives the exit status, of which None is 0.
        text: what `--help` prints; None if `main` itself answers it.
        bare: whether the command does something without arguments; if not, it prints the text.
        keys: whether its arguments are `key=value`, each key once; names of files may repeat what is before a "=".
    """
    arguments = sys.argv[1:]
    if text is not None and ({"-h", "--help"} & set(arguments) or not (arguments or bare)):
        print(text)
        sys.exit(0)

    def work() -> int | None:
        if keys:
            check_given_once(arguments)
        return main(arguments)

    sys.exit(guarded(work))


def tell_interrupts() -> None:
    """Tell Ctrl-C in one sentence also before `guarded`, while modules load; Python's exit status is 130 then."""
    usual = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("Stopped.", file=sys.stderr)
        else:
            usual(kind, error, traceback)

    sys.excepthook = tell


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it: raised where the program stands, so that it clears up like after Ctrl-C."""


@contextmanager
def sigterm_raised() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM within the block; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def guarded(work: Callable[[], int | None]) -> int | None:
    """Do a command's work; its exit status. Bad input, faults of the machine and signals are told in one sentence."""
    try:
        with sigterm_raised():
            status = work()
        sys.stdout.flush()  # a full disk under a log, or a reader that has gone, shows here
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":  # of processes that train together all are stopped
            with suppress(OSError):
                print(visible(str(error)) or "Stopped.", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BAD_MACHINE
    except Exception as error:
        return fail(error)
    return status


def fail(error: Exception) -> int:
    """Tell the user what is wrong; the exit status: 2 for bad input, 1 for a fault of the machine.

    Raises:
        Exception: what no one foresaw goes on, with its traceback.
    """
    found = explain(error)
    if found is None:
        raise error
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    with suppress(OSError):  # the disk that is full may be the log's
        print(f"error: {visible(found[0])}", file=sys.stderr, flush=True)
    return found[1]


def split_paths(arguments: list[str], names: Sequence[str]) -> tuple[dict[str, str], list[Path]]:
    """Take the options `name=value` out of arguments that are files or folders, whose names may hold a "=", too.

    Args:
        arguments: of the command.
        names: its options.

    Returns:
        The options that are given, as text; and the paths.

    Raises:
        UserError: an option given twice, or what is neither an option nor there.
    """
    chosen = [one for one in arguments if "=" in one and one.partition("=")[0] in names]
    check_given_once(chosen)
    paths = [Path(one) for one in arguments if one not in chosen]
    for path in paths:
        if "=" in path.name and not path.exists():
            options = " and ".join((", ".join(f"{name}=" for name in names[:-1]), f"{names[-1]}="))
            raise UserError(f"{path} is no option and is not there; the options are {options}.")
    return dict(one.split("=", 1) for one in chosen), paths


def check_given_once(arguments: Iterable[str]) -> None:
    """Check that no key is given twice: the last one would count, and what was meant by the others be lost.

    Raises:
        UserError: one is, as when a shell takes a brace pattern apart; the sentence shows how to quote it.
    """
    given: dict[str, list[str]] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and not key.startswith("-"):
            given.setdefault(key.lstrip("+"), []).append(value)
    for key, values in given.items():
        if len(values) > 1:
            raise UserError(f"{key} is given {len(values)} times ({_some(values)}); {_once(key, values)}")


def _some(values: list[str]) -> str:
    return ", ".join(values[:3]) + (", ..." if len(values) > 3 else "")


def _once(key: str, values: list[str]) -> str:
    """How to give a key once: in quotes, where its values look like what a shell makes of paths with braces."""
    start = _shared_start(values)
    rest = [value[len(start) :] for value in values]
    end = _shared_start([value[::-1] for value in rest])[::-1]
    parts = [value.removesuffix(end) for value in rest]
    if len(set(values)) < len(values) or not ("/" in start or "." in end):
        return "give it once."
    numbers = [int(part) for part in parts if part.isdecimal()]
    if len(numbers) == len(parts) and numbers == list(range(numbers[0], numbers[-1] + 1)):
        inside = f"{parts[0]}..{parts[-1]}"
    else:
        inside = ",".join(parts)
    pattern = f"{start}{{{inside}}}{end}"
    return f"give it once, its braces in quotes that keep the shell from taking them apart: '{key}={pattern}'"


def _shared_start(values: list[str]) -> str:
    letters = zip(*values, strict=False)
    return "".join(column[0] for column in takewhile(lambda column: len(set(column)) == 1, letters))


def split_options(arguments: list[str], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Take a command's own options out of its arguments, beside keys of a run's configuration.

    Args:
        arguments: `key=value` strings.
        defaults: the command's own keys with their defaults.

    Returns:
        The options, values read as YAML; and the arguments that are left, for the configuration.

    Raises:
        UserError: a value that can't be read, or an argument that is no `key=value`.
    """
    options, rest = dict(defaults), []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            near = get_close_matches(key.lstrip("-"), defaults, n=1)
            hint = f" (did you mean {near[0]}=...?)" if near else ""
            raise UserError(f"{argument!r} is no key=value{hint}.")
        if key not in defaults:
            rest.append(argument)
            continue
        try:
            options[key] = yaml.safe_load(value) if not isinstance(defaults[key], str) else value
        except yaml.YAMLError as error:
            raise UserError(f"{argument!r} can't be read; put the value in quotes.") from error
    return options, rest
