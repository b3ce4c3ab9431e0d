"""Which models may be served: with PERCEPT_TRUSTED_KEYS, only those whose files one of its keys has signed.

A signature is the file `model.sig` in a model's folder, in the format of OpenSSF Model Signing 1.0: a Sigstore bundle
that holds a DSSE envelope, whose payload is an in-toto statement with the SHA-256 of each file. `percept export --sign`
writes it with the package model-signing, whose `model_signing verify` accepts the same files. The service verifies with
`cryptography` alone, imported only if there are keys: model-signing would bring twenty other packages, sigstore's and
TUF's among them, and take three times the memory.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.card import CARD_FILE, SIGNATURE_FILE, ModelCard
from service.errors import Untrusted

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.x509 import BasicConstraints, Certificate, KeyUsage
    from cryptography.x509.verification import Policy

KEYS, NOT_BEFORE = "PERCEPT_TRUSTED_KEYS", "PERCEPT_NOT_BEFORE"
UNSIGNED = (SIGNATURE_FILE, "model.yaml")  # the second is the store's record, which BentoML may write anew

# https://github.com/ossf/model-signing-spec, https://docs.sigstore.dev/about/bundle, https://in-toto.io/Statement/v1
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}  # by curve
PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


@dataclass(frozen=True)
class Trust:
    """Who may sign models, and how old these may be.

    Attributes
    ----------
    keys : fingerprint → public key; see `fingerprint`
    authorities : certificates, one of which has to stand at the end of a signer's chain
    not_before : name of a model → the earliest time at which it may have been exported; "" for any other model
    """

    keys: Mapping[str, "EllipticCurvePublicKey"]
    authorities: Sequence["Certificate"] = ()
    not_before: Mapping[str, datetime] = field(default_factory=dict)

    @classmethod
    def from_environment(cls) -> "Trust | None":
        """The keys and certificates in the files that PERCEPT_TRUSTED_KEYS names, and the times of PERCEPT_NOT_BEFORE;
        None if any model is trusted.

        Raises ValueError if the variables are not valid, or a file cannot be read.
        """
        text, times = os.environ.get(KEYS), os.environ.get(NOT_BEFORE)
        if text is None:
            if times is not None:
                raise ValueError(f"{NOT_BEFORE} needs {KEYS}: a model that is not signed may claim any age")
            return None
        files = paths(text)
        if not files:
            raise ValueError(f"{KEYS} is set, but names no file")
        keys: dict[str, EllipticCurvePublicKey] = {}
        authorities: list[Certificate] = []
        for file in files:
            try:
                _read(file, keys, authorities)
            except ModuleNotFoundError:
                raise ValueError(f"{KEYS} needs the package cryptography, which is not installed") from None
            except OSError as error:
                raise ValueError(f"{KEYS}: {file}: {error.strerror}") from None
            except ValueError as error:
                raise ValueError(f"{KEYS}: {file}: {error}") from None
        return cls(keys, authorities, _times(times))

    def check(self, files: Mapping[str, bytes]) -> str:
        """Who signed the files of a model, name → content: the fingerprint of a key, or the subject of a certificate.

        Raises Untrusted, with the reason in words for clients, unless these are the files that somebody trusted has
        signed, and the model is not too old.
        """
        if SIGNATURE_FILE not in files:
            raise Untrusted("it carries no signature")
        try:
            return self._check(files)
        except Untrusted:
            raise
        except Exception as error:  # of whatever the files may hold
            raise Untrusted("its signature cannot be read") from error

    def state(self) -> dict[str, Any]:
        """What a client may know."""
        times = {name or "*": f"{time:%Y-%m-%dT%H:%M:%SZ}" for name, time in self.not_before.items()}
        return {"keys": [*self.keys], "certificates": [_subject(one) for one in self.authorities], "not_before": times}

    def _check(self, files: Mapping[str, bytes]) -> str:
        material, payload, signature = _unpacked(json.loads(files[SIGNATURE_FILE]))
        signed = _manifest(payload)
        for name in sorted({*files, *signed}):
            if name not in signed and name not in UNSIGNED:
                raise Untrusted(f"{name} is not signed")
            if name in signed and (name not in files or hashlib.sha256(files[name]).hexdigest() != signed[name]):
                raise Untrusted(f"{name} is not the file that was signed")
        card = ModelCard.model_validate_json(files[CARD_FILE])
        created = _aware(card.created)
        who, key = self._signer(material, created)
        _verify(key, payload, signature)
        earliest = self.not_before.get(card.name, self.not_before.get(""))
        if earliest is not None and created < earliest:
            raise Untrusted(f"it was exported at {created:%Y-%m-%dT%H:%M:%SZ}, before the time that {NOT_BEFORE} sets")
        return who

    def _signer(self, material: dict[str, Any], created: datetime) -> tuple[str, "EllipticCurvePublicKey"]:
        """The key that a bundle's verification material names, if it is trusted."""
        if chain := material.get("x509CertificateChain"):
            leaf = _accepted(
                [base64.b64decode(one["rawBytes"]) for one in chain["certificates"]], self.authorities, created
            )
            return _subject(leaf), supported(leaf.public_key())
        name = material.get("publicKey", {}).get("hint")
        if name not in self.keys:
            raise Untrusted("it is not signed by a trusted key")
        return name, self.keys[name]


def paths(text: str) -> list[Path]:
    """The files that PERCEPT_TRUSTED_KEYS names, absolute."""
    return [Path(name.strip()).absolute() for name in text.split(",") if name.strip()]


def fingerprint(key: "EllipticCurvePublicKey") -> str:
    """SHA-256 of a public key in PEM, in hexadecimal: `openssl ec -in KEY -pubout | sha256sum`."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _read(file: Path, keys: dict[str, "EllipticCurvePublicKey"], authorities: list["Certificate"]) -> None:
    """Add what a PEM file holds."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    is_empty = True
    for block in PEM.finditer(file.read_bytes()):
        kind = block[1].decode()
        is_empty &= kind not in ("CERTIFICATE", "PUBLIC KEY")
        if kind == "CERTIFICATE":
            authorities.append(x509.load_pem_x509_certificate(block[0]))
        elif kind == "PUBLIC KEY":
            key = supported(load_pem_public_key(block[0]))
            keys[fingerprint(key)] = key
        elif "PRIVATE" in kind:
            raise ValueError("this is a private key; the service takes the public one: openssl pkey -in KEY -pubout")
    if is_empty:
        raise ValueError("holds no public key and no certificate in PEM")


def supported(key: Any) -> "EllipticCurvePublicKey":
    """A public key as it is, if its curve is one that the format allows. Raises ValueError."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in HASHES:
        raise ValueError("expected a key of one of the curves P-256, P-384 and P-521")
    return key


def _times(text: str | None) -> dict[str, datetime]:
    """The times of PERCEPT_NOT_BEFORE.

    >>> _times("2026-11-28, digits=2026-12-01T08:00Z")["digits"].isoformat()
    '2026-12-01T08:00:00+00:00'
    """
    times = dict[str, datetime]()
    for entry in (text or "").split(","):
        name, _, time = (part.strip() for part in entry.rpartition("="))
        if entry.strip():
            if name in times:  # which of the two holds would be a guess
                raise ValueError(f"{NOT_BEFORE}={text}: two times for {name or 'all models'}")
            try:
                times[name] = _aware(datetime.fromisoformat(time))
            except ValueError:
                raise ValueError(f"{NOT_BEFORE}={text}: expected TIME or MODEL=TIME, as 2026-11-28T12:00Z") from None
    if text is not None and not times:
        raise ValueError(f"{NOT_BEFORE} is set, but holds no time")
    return times


def _aware(time: datetime) -> datetime:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


def _unpacked(bundle: dict[str, Any]) -> tuple[dict[str, Any], bytes, bytes]:
    """A bundle's verification material, the payload of its envelope, and the one signature of that."""
    envelope = bundle["dsseEnvelope"]
    if (bundle["mediaType"], envelope["payloadType"]) != (BUNDLE, PAYLOAD):
        raise Untrusted("its signature is of a kind that is not read")
    [signature] = envelope["signatures"]
    payload, signature = (base64.b64decode(text, validate=True) for text in (envelope["payload"], signature["sig"]))
    return bundle["verificationMaterial"], payload, signature


def _manifest(payload: bytes) -> dict[str, str]:
    """Name → SHA-256 of each file of which an in-toto statement tells."""
    statement = json.loads(payload)
    predicate = statement["predicate"]
    kinds = statement["_type"], statement["predicateType"], predicate["serialization"]["method"]
    resources = predicate["resources"]
    if kinds != (STATEMENT, PREDICATE, "files") or any(one["algorithm"] != "sha256" for one in resources):
        raise Untrusted("its signature is of a kind that is not read")
    [subject] = statement["subject"]
    whole = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources)).hexdigest()
    files = {one["name"]: one["digest"] for one in resources}
    if whole != subject["digest"]["sha256"] or len(files) != len(resources):
        raise Untrusted("its signature contradicts itself")
    return files


def _verify(key: "EllipticCurvePublicKey", payload: bytes, signature: bytes) -> None:
    """Raise Untrusted unless the key has signed the payload, as DSSE 1.0 encodes it before it is signed."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    encoded = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)
    try:
        key.verify(signature, encoded, ECDSA(getattr(hashes, HASHES[key.curve.name])()))
    except InvalidSignature:
        raise Untrusted("its signature is not that of the key which it names") from None


def _accepted(chain: list[bytes], authorities: Sequence["Certificate"], time: datetime) -> "Certificate":
    """The first certificate of a chain, DER, which may sign files and which an authority has issued, directly or
    through others of the chain, all valid at that time (RFC 5280). Raises Untrusted."""
    from cryptography import x509
    from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

    if not authorities:
        raise Untrusted("it is not signed by a trusted key")
    leaf, *others = map(x509.load_der_x509_certificate, chain)
    issuers = (
        ExtensionPolicy.permit_all()  # not the default, which asks for what only web servers' certificates have
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_certificates)
    )
    builder = PolicyBuilder().store(Store([*authorities])).time(time)
    builder = builder.extension_policies(ca_policy=issuers, ee_policy=ExtensionPolicy.permit_all())
    try:
        builder.build_client_verifier().verify(leaf, others)
    except VerificationError as error:
        raise Untrusted("it is not signed by a trusted certificate that was valid when it was exported") from error
    if not _signs_files(leaf):
        raise Untrusted("its certificate is not for signing")
    return leaf


def _is_authority(policy: "Policy", certificate: "Certificate", constraints: "BasicConstraints") -> None:
    if not constraints.ca:
        raise ValueError("not a certificate authority")


def _signs_certificates(policy: "Policy", certificate: "Certificate", usage: "KeyUsage | None") -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("a key that may not sign certificates")


def _signs_files(certificate: "Certificate") -> bool:
    """Whether its key usage holds digitalSignature, or its extended key usage codeSigning, as model-signing asks."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    found = certificate.extensions
    for kind in (x509.KeyUsage, x509.ExtendedKeyUsage):
        try:
            usage: Any = found.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            continue
        if usage.digital_signature if kind is x509.KeyUsage else ExtendedKeyUsageOID.CODE_SIGNING in usage:
            return True
    return False


def _subject(certificate: "Certificate") -> str:
    return certificate.subject.rfc4514_string()
