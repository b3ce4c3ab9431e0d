"""Signs what is exported, as OpenSSF Model Signing 1.0 says, with the package model-signing, offline.

`service.serving.trust` verifies it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import UserError
from service.serving.trust import UNSIGNED, fingerprint, supported


class Signer:
    """Signs with a private key.

    Parameters
    ----------
    key : file of the private key, PEM without a password
    certificates : files of its certificate, and of those that lead from its issuer to the authority that is trusted;
        none for the key alone

    Raises
    ------
    UserError : a file cannot be used, or model-signing is not installed

    Attributes
    ----------
    who : the key's fingerprint, or the certificate's subject
    """

    def __init__(self, key: Path, certificates: Sequence[Path] = ()) -> None:
        try:
            from model_signing import hashing, signing
        except ModuleNotFoundError as error:
            raise UserError(
                f"--sign: {error.name} is not installed: pip install '.[sign]' -c constraints.txt"
            ) from None
        self.who = _checked(key, certificates)
        hashes = hashing.Config().set_ignored_paths(paths=UNSIGNED, ignore_git_paths=False)
        self._config = signing.Config().set_hashing_config(hashes)
        if certificates:
            chain = certificates[1:] or certificates  # the package cannot read a chain of no file
            self._config.use_certificate_signer(
                private_key=key, signing_certificate=certificates[0], certificate_chain=chain
            )
        else:
            self._config.use_elliptic_key_signer(private_key=key)

    def sign(self, files: Mapping[str, bytes], name: str) -> bytes:
        """The signature of the files of a model, name → content."""
        with TemporaryDirectory() as folder:
            whole, signature = Path(folder) / name, Path(folder) / "signature"
            whole.mkdir()
            for file, content in files.items():
                (whole / file).write_bytes(content)
            self._config.sign(whole, signature)
            return signature.read_bytes()


def _checked(key: Path, certificates: Sequence[Path]) -> str:
    """Whose signatures the key makes. Raises UserError unless the files hold a key without a password, and certificates
    of which the first is the key's."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    file = key
    try:
        public = supported(load_pem_private_key(key.read_bytes(), None).public_key())
        chain = [(file := path, x509.load_pem_x509_certificate(path.read_bytes()))[1] for path in certificates]
    except OSError as error:
        raise UserError(f"--sign: {file}: {error.strerror}") from None
    except TypeError:  # a password was not given
        raise UserError(f"--sign: {key}: is encrypted; write it without a password: openssl pkey -in {key}") from None
    except ValueError as error:
        expected = "a private key" if file == key else "a certificate"
        raise UserError(f"--sign: {file}: expected {expected} in PEM: {error}") from None
    if not chain:
        return fingerprint(public)
    if chain[0].public_key() != public:
        raise UserError(f"--certificate {certificates[0]}: is not the certificate of {key}")
    return chain[0].subject.rfc4514_string()
