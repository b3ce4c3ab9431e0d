"""Keys, and stored models that are signed with them as `percept export --sign` does."""

from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from models.card import SIGNATURE_FILE
from pipeline.signing import Signer
from service.serving.trust import fingerprint

Key = ec.EllipticCurvePrivateKey


@cache
def key(name: str, curve: str = "SECP256R1") -> Key:
    """A new key; always the same for a name."""
    return ec.generate_private_key(getattr(ec, curve)())


def private(folder: Path, of: Key) -> Path:
    """Writes the private key."""
    file = folder / f"{fingerprint(of.public_key())[:8]}.key"
    file.write_bytes(of.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file


def public(folder: Path, of: Key) -> Path:
    """Writes the public key."""
    file = folder / f"{fingerprint(of.public_key())[:8]}.pub"
    file.write_bytes(of.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return file


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a stored model, name → content."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def sign(folder: Path, keys: Path, by: Key, *certificates: Path) -> Path:
    """Signs the model in a folder of the store. The private key is written into the folder `keys`."""
    contents = {name: text for name, text in files_of(folder).items() if name not in ("model.yaml", SIGNATURE_FILE)}
    (folder / SIGNATURE_FILE).write_bytes(Signer(private(keys, by), certificates).sign(contents, folder.parent.name))
    return folder
