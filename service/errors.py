"""Reasons for refusing a file or a model. `service.http.errors` maps each to its HTTP status."""


class MediaError(ValueError):
    """Bytes that cannot become a model's input; the message is one line for the person who sent them."""


class Unreadable(MediaError):
    """The file is empty or damaged, or cannot be opened."""


class WrongMedia(MediaError):
    """The file is another kind of media than the model takes."""


class TooLarge(MediaError):
    """The file, the image or the recording is larger than the limits allow."""


class Unusable(MediaError):
    """The file can be decoded, but there is nothing to classify in it: blank, silent, empty, not finite."""


class UnknownModel(LookupError):
    """No model has that name or version, or it could not be loaded."""


class StoreBlocked(Exception):
    """The model store does not answer in time: it may lie on a network share that hangs."""


class Untrusted(ValueError):
    """Nobody trusted has signed a version of a model, or it is too old; the message is one line for clients."""
