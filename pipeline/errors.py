"""UserError: a mistake of the user, which the command prints without a traceback."""


class UserError(Exception):
    """A mistake of the user: each line of the message says what is wrong, where, and what to do."""
