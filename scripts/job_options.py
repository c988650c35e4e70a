"""Options of these commands that are no part of a training run's configuration, given as `key=value` beside it."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import yaml

from balance.errors import UserError


def split_options(arguments: list[str], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Take a command's own options out of its arguments.

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
