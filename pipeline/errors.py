"""UserError: a mistake of the user, which the command prints without a traceback; and what messages are made of."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake of the user: each line of the message says what is wrong, where, and what to do."""


def counted(n: int, noun: str, more: str = "s") -> str:
    """How many there are; `more` is what the plural ends in.

    Example
    -------
    >>> counted(1, "class", "es"), counted(1200, "file")
    ('1 class', '1,200 files')
    """
    return f"{n:,} {noun}{'' if n == 1 else more}"


def listed(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are.

    Example
    -------
    >>> listed([*"abcd"], 2)
    'a, b and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
