"""HEIC, as iPhones store photos, decoded by libheif through pi-heif: the extra `phone`."""

from importlib.util import find_spec

from service.media.signatures import announced

FORMATS = ("HEIF",)  # Pillow's name of it


def is_readable(data: bytes) -> bool:
    """Whether the file is HEIC, and pi-heif is here, which is imported and made known to Pillow only now."""
    if data[4:8] != b"ftyp":
        return False
    kind = announced(data)
    return kind is not None and kind.reader == "heif" and _register()


def _register() -> bool:
    if find_spec("pi_heif") is None:
        return False
    import pi_heif

    pi_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return True
