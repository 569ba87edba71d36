"""The one error that means a mistake in what the user gave."""


class UserError(Exception):
    """A mistake of input: says what was found, what was expected and what to do.

    Tools print its message without a traceback and exit with status 2.
    """
