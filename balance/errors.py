"""The exception for invalid input."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Bad input: one sentence that says what is wrong, where, and what to do.

    Programs print the sentence without a traceback and exit with status 2.
    """


@contextmanager
def keys_under(group: str) -> Iterator[None]:
    """Put the group before the key that an error begins with, as a command line has it: `balance.keep=2 ...`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{group}.{error}") from error
