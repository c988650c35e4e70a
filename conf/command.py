"""A command of the terminal: its options, its help, and bad input told in one sentence."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NoReturn

import yaml

from balance.common.faults import BAD_MACHINE, explain
from balance.common.terminal import visible
from balance.errors import UserError

TRACEBACK = "COUNTERBALANCE_TRACEBACK"
"""The variable of the environment that shows where an error came from, too."""


def run_command(main: Callable[[list[str]], int | None], text: str | None = None, bare: bool = True) -> NoReturn:
    """Run a command with the arguments of the command line, and exit with its status.

    Args:
        main: takes the arguments and gives the exit status, of which None is 0.
        text: what `--help` prints; None if `main` itself answers it.
        bare: whether the command does something without arguments; if not, it prints the text.
    """
    arguments = sys.argv[1:]
    if text is not None and ({"-h", "--help"} & set(arguments) or not (arguments or bare)):
        print(text)
        sys.exit(0)
    sys.exit(guarded(lambda: main(arguments)))


def guarded(work: Callable[[], int | None]) -> int | None:
    """Do a command's work; its exit status. Bad input and faults of the machine are told in one sentence."""
    try:
        status = work()
        sys.stdout.flush()  # a full disk under a log, or a reader that has gone, shows here
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 128 + signal.SIGINT
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
