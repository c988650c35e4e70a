"""The one exception that a user is meant to read."""


class UserError(ValueError):
    """Bad input: one sentence that says what is wrong, where, and what to do.

    Programs print the sentence without a traceback and exit with status 2.
    """
