"""A decoder's result for a file: an array, or a reason for refusing it."""

import numpy as np

from service.errors import TooLarge, Unreadable, Unusable, WrongMedia
from service.media import Limits
from service.media.image import decode_image
from tests.service.helpers import to_bytes

LIMITS = Limits()
RATE = 22_050  # Hz


def decode(image, format="PNG", **options):
    return decode_image(to_bytes(image, format, **options), LIMITS)


def difference(a, b):
    """Mean absolute difference in grey levels."""
    return np.abs(a.astype(int) - b.astype(int)).mean()


def outcome(call, *arguments):
    """(None, the result) or, if the file is refused, (the reason's class, its one line of message)."""
    try:
        return None, call(*arguments)
    except (Unreadable, WrongMedia, TooLarge, Unusable) as error:
        refused = error
    message = str(refused)
    assert message
    assert "\n" not in message
    return type(refused), message


def reason(call, *arguments):
    """Why the file is refused, None if it is not."""
    return outcome(call, *arguments)[0]
