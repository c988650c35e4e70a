"""Settings of any shape, read by code that expects one."""

from collections.abc import Iterator
from contextlib import contextmanager

from balance.errors import UserError

_MISFITS = (TypeError, AttributeError, LookupError, ValueError, ArithmeticError, RecursionError)


@contextmanager
def expecting(what: str) -> Iterator[None]:
    """Tell a value of another shape than the code inside the block expects by its setting, not by a traceback.

    For code that does nothing but read settings: word lists, sources, options, whose values may be anything.

    Args:
        what: the setting and how it is written, for the message, such as "eval.evaluators.rb".

    Raises:
        UserError: instead of what Python raises for a number in place of a list, a missing key, and the like.
    """
    try:
        yield
    except UserError:
        raise
    except _MISFITS as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} has a value of the wrong kind ({type(error).__name__}: {reason}).") from error
