"""A command of the terminal: its options, its help, and bad input told in one sentence."""

import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, NoReturn

import yaml

from balance.errors import UserError


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
    try:
        sys.exit(main(arguments))
    except UserError as error:
        sys.exit(fail(error))


def fail(error: Exception) -> int:
    """Tell the user what is wrong; the exit status."""
    print(f"error: {error}", file=sys.stderr)
    return 2


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
