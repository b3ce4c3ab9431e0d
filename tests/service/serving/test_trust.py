"""Trust: what is served is what somebody trusted has signed, in the format of the package model-signing."""

import base64
import json
import runpy
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from model_signing import signing, verifying

from models.card import CARD_FILE, SIGNATURE_FILE, ModelCard, seal
from pipeline.errors import UserError
from pipeline.signing import Signer
from service.errors import Untrusted
from service.serving.opening import open_version
from service.serving.store import Stored
from service.serving.trust import KEYS, NOT_BEFORE, Trust, fingerprint
from tests.service.in_process import application
from tests.serving import put, sides_model, sums_model
from tests.signing import Key, files_of, key, private, public, sign

MODEL = "model.onnx"
EXPORTED = datetime.now(UTC)
DAY = timedelta(days=1)


def trusting(*keys: Key, authorities: Sequence[x509.Certificate] = (), **not_before: datetime) -> Trust:
    return Trust({fingerprint(one.public_key()): one.public_key() for one in keys}, authorities, not_before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stored model that `key("ours")` has signed."""
    put(tmp_path, sums_model("v1"))
    (tmp_path / "keys").mkdir()
    return sign(tmp_path / "models" / "sums" / "v1", tmp_path / "keys", key("ours"))


@pytest.fixture
def keys(folder: Path) -> Path:
    return folder.parents[2] / "keys"


def reseal(folder: Path, **fields: Any) -> None:
    """Makes model and card anew with other facts, as whoever can write the store can."""
    graph = sums_model("v1")
    card = ModelCard.model_validate_json(graph.metadata_props[0].value).model_copy(update=fields)
    del graph.metadata_props[:]
    model, text = seal(graph.SerializeToString(), card)
    (folder / MODEL).write_bytes(model)
    (folder / CARD_FILE).write_bytes(text)


def forge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a bundle, whose payload is given as a dict."""
    bundle = json.loads((folder / SIGNATURE_FILE).read_text())
    bundle["payload"] = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(bundle)
    payload = json.dumps(bundle.pop("payload")).encode()
    if json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"])) != json.loads(payload):
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    (folder / SIGNATURE_FILE).write_text(json.dumps(bundle))


def resealed_with_its_digests(folder: Path) -> None:
    """The statement tells the truth about the forged files; only the signature cannot."""
    reseal(folder, metrics={"accuracy": 1.0})

    def change(bundle: dict[str, Any]) -> None:
        resources = bundle["payload"]["predicate"]["resources"]
        for one in resources:
            one["digest"] = sha256((folder / one["name"]).read_bytes()).hexdigest()
        whole = sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources)).hexdigest()
        bundle["payload"]["subject"][0]["digest"]["sha256"] = whole

    forge(folder, change)


def with_statement(**fields: Any) -> Callable[[Path], None]:
    """The statement says something else, and its signature is that of a trusted key."""

    def apply(folder: Path) -> None:
        def change(bundle: dict[str, Any]) -> None:
            bundle["payload"] |= fields
            payload = json.dumps(bundle["payload"]).encode()
            kind = bundle["dsseEnvelope"]["payloadType"]
            encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
            signature = key("ours").sign(encoded, ec.ECDSA(hashes.SHA256()))
            bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()

        forge(folder, change)

    return apply


def with_bundle(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: forge(folder, lambda bundle: bundle.update(fields))


def with_file(name: str, content: bytes | None) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)

    return apply


def by_another(folder: Path) -> None:
    sign(folder, folder.parents[2] / "keys", key("another"))


def claimed_by_another(folder: Path) -> None:
    """Another key has signed, but the bundle names ours."""
    ours = json.loads((folder / SIGNATURE_FILE).read_text())["verificationMaterial"]
    by_another(folder)
    forge(folder, lambda bundle: bundle.update(verificationMaterial=ours))


ANOTHER_KIND = "its signature is of a kind that is not read"
CHANGED = "is not the file that was signed"
FORGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no signature": (with_file(SIGNATURE_FILE, None), "it carries no signature"),
    "sealed again": (lambda folder: reseal(folder, metrics={"accuracy": 1.0}), f"card.json {CHANGED}"),
    "statement forged too": (resealed_with_its_digests, "its signature is not that of the key which it names"),
    "by another key": (by_another, "it is not signed by a trusted key"),
    "by another key under our name": (claimed_by_another, "its signature is not that of the key which it names"),
    "report changed": (with_file("report.json", b'{"test": {}}'), f"report.json {CHANGED}"),
    "report missing": (with_file("report.json", None), f"report.json {CHANGED}"),
    "file added": (with_file("samples.json", b"{}"), "samples.json is not signed"),
    "empty": (with_file(SIGNATURE_FILE, b""), "its signature cannot be read"),
    "not JSON": (with_file(SIGNATURE_FILE, b"\x89PNG"), "its signature cannot be read"),
    "nested": (with_file(SIGNATURE_FILE, b"[" * 10**5), "its signature cannot be read"),
    "another bundle": (with_bundle(mediaType="application/json"), ANOTHER_KIND),
    "no key": (with_bundle(verificationMaterial={"tlogEntries": []}), "it is not signed by a trusted key"),
    "odd material": (with_bundle(verificationMaterial=[1]), "its signature cannot be read"),
    "odd chain": (
        with_bundle(verificationMaterial={"x509CertificateChain": {"certificates": [{"rawBytes": "AAAA"}]}}),
        "it is not signed by a trusted key",
    ),
    "another predicate": (with_statement(predicateType="https://slsa.dev/v1"), ANOTHER_KIND),
    "another subject": (
        with_statement(subject=[{"name": "sums", "digest": {"sha256": "0" * 64}}]), "its signature contradicts itself",
    ),
}  # fmt: skip


def accepted_by_model_signing(folder: Path, public_key: Path) -> bool:
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    try:
        verifier.verify(folder, folder / SIGNATURE_FILE)
    except Exception:  # its own, cryptography's, and those of whatever reads the file
        return False
    return True


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_model_is_refused_here_and_by_model_signing(folder: Path, keys: Path, how: str) -> None:
    trust, model = trusting(key("ours")), Stored("sums", "v1", folder)
    assert open_version(model, trust).signer == fingerprint(key("ours").public_key())
    assert accepted_by_model_signing(folder, public(keys, key("ours")))
    forge_it, reason = FORGED[how]
    forge_it(folder)
    with pytest.raises(Untrusted) as refused:
        open_version(model, trust)
    assert str(refused.value) == reason
    assert not accepted_by_model_signing(folder, public(keys, key("ours")))


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_model_signing_accepts_our_signatures_and_we_accept_its(folder: Path, keys: Path, curve: str) -> None:
    by = key(curve, curve)
    sign(folder, keys, by)
    signature = folder / SIGNATURE_FILE
    assert accepted_by_model_signing(folder, public(keys, by))
    assert trusting(key("ours"), by).check(files_of(folder)) == fingerprint(by.public_key())
    signature.unlink()
    # With its defaults, the package signs the store's record as well.
    signing.Config().use_elliptic_key_signer(private_key=private(keys, by)).sign(folder, signature)
    assert trusting(by).check(files_of(folder)) == fingerprint(by.public_key())
    (folder / "model.yaml").write_text("{}")
    with pytest.raises(Untrusted, match=r"model\.yaml is not the file"):
        trusting(by).check(files_of(folder))


def test_the_command_of_model_signing_accepts_it_as_it_lies_in_the_store(
    folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m model_signing verify key …`, without the seconds that a new process takes to start."""
    signature, public_key = folder / SIGNATURE_FILE, public(keys, key("ours"))
    arguments = ["verify", "key", folder, "--signature", signature, "--public_key", public_key]
    monkeypatch.setattr(sys, "argv", ["model_signing", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("model_signing", run_name="__main__")
    assert (end.value.code, capsys.readouterr().out) == (0, "Verification succeeded\n")


def test_a_signed_model_in_place_of_another_is_refused(folder: Path, keys: Path, tmp_path: Path) -> None:
    trust = trusting(key("ours"))
    put(tmp_path, sums_model("v2"))
    put(tmp_path, sides_model("v1"))
    for name, version in (("sums", "v2"), ("sides", "v1")):
        other = sign(tmp_path / "models" / name / version, keys, key("ours"))
        assert open_version(Stored(name, version, other), trust).card.version == version
        shutil.rmtree(folder)
        shutil.copytree(other, folder)
        with pytest.raises(ValueError, match=f"its card is that of {name}:{version}"):
            open_version(Stored("sums", "v1", folder), trust)


def test_a_model_older_than_the_pinned_time_is_refused(folder: Path) -> None:
    created = ModelCard.model_validate_json((folder / CARD_FILE).read_bytes()).created
    files, later = files_of(folder), created + timedelta(seconds=1)
    ours = key("ours")
    for pins in ({"sums": created}, {"digits": later}, {"": created}, {"": later, "sums": created}):
        assert trusting(ours, **pins).check(files)
    for pins in ({"sums": later}, {"": later}, {"": created, "sums": later}):
        with pytest.raises(Untrusted, match=f"it was exported at {created:%Y-%m-%dT%H:%M:%S}Z, before the time"):
            trusting(ours, **pins).check(files)


def test_what_is_served_are_the_bytes_that_were_checked(folder: Path) -> None:
    """Somebody who can write the store replaces the files as soon as they have been checked."""

    class Raced(Trust):
        def check(self, files: Any) -> str:
            who = super().check(files)
            reseal(folder, metrics={"accuracy": 1.0})
            return who

    trust = trusting(key("ours"))
    predictor = open_version(Stored("sums", "v1", folder), Raced(trust.keys))
    assert predictor.card.metrics == {"accuracy": 0.9}
    with pytest.raises(Untrusted, match=r"card\.json"):
        open_version(Stored("sums", "v1", folder), trust)


def certificate(
    name: str, of: Key, issuer: tuple[x509.Certificate, Key] | None = None, *, is_authority: bool = False,
    usage: x509.ExtensionType | None = None, days: tuple[int, int] = (-1, 1),
) -> x509.Certificate:  # fmt: skip
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder(serial_number=x509.random_serial_number(), public_key=of.public_key())
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .not_valid_before(EXPORTED + days[0] * DAY)
        .not_valid_after(EXPORTED + days[1] * DAY)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
    )
    if usage:
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(issuer[1] if issuer else of, hashes.SHA256())


CODE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])


def written(folder: Path, certificate: x509.Certificate) -> Path:
    file = folder / f"{certificate.serial_number}.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    return file


@pytest.mark.parametrize(
    ("between", "leaf", "reason"),
    [
        ({}, {}, None),
        (None, {}, None),
        ({}, {"usage": SERVER}, "its certificate is not for signing"),
        ({}, {"days": (-3, -2)}, "valid when it was exported"),
        ({"days": (-3, -2)}, {}, "valid when it was exported"),
        ({"is_authority": False}, {}, "valid when it was exported"),
    ],
)
def test_certificates(
    folder: Path, keys: Path, between: dict[str, Any] | None, leaf: dict[str, Any], reason: str | None
) -> None:
    """A root, perhaps an intermediate authority, and the certificate of the key that signs."""
    root = certificate("root", key("root"), is_authority=True)
    issuer, chain = (root, key("root")), []
    if between is not None:
        issuer = certificate("team", key("team"), issuer, **{"is_authority": True} | between), key("team")
        chain = [issuer[0]]
    signer = certificate("exporter", key("leaf"), issuer, **{"usage": CODE} | leaf)
    sign(folder, keys, key("leaf"), *(written(keys, one) for one in (signer, *chain)))
    files = files_of(folder)
    trust = trusting(authorities=[certificate("other", key("other"), is_authority=True), root])
    if reason is None:
        assert trust.check(files) == "CN=exporter"
        verifying.Config().use_certificate_verifier(certificate_chain=[written(keys, root)]).verify(
            folder, folder / SIGNATURE_FILE
        )
    else:
        with pytest.raises(Untrusted, match=reason):
            trust.check(files)
    impostor = certificate("root", key("impostor"), is_authority=True)
    with pytest.raises(Untrusted, match="not signed by a trusted certificate"):
        trusting(authorities=[impostor]).check(files)
    with pytest.raises(Untrusted, match="not signed by a trusted key"):
        trusting(key("leaf")).check(files)


def test_the_service_says_whom_it_trusts_and_what_it_refuses(folder: Path, keys: Path, tmp_path: Path) -> None:
    """An unsigned model at start, an unsigned version later, a signed one, and the older one after that."""
    put(tmp_path, sides_model("v1"))
    name, later = fingerprint(key("ours").public_key()), EXPORTED + timedelta(hours=1)
    pin = f"sums={later:%Y-%m-%dT%H:%M:%SZ}"
    with application(
        tmp_path, **{KEYS: str(public(keys, key("ours"))), "PERCEPT_API_KEYS": "key"}
    ) as client:  # fmt: skip
        client.headers["x-api-key"] = "key"

        def followed() -> Any:
            client.post("/v2/repository/models/sums/load")
            ready, models = client.get("/readyz").json(), client.get("/models").json()
            assert (ready["failed"], ready["trust"]) == (models["failed"], models["trust"])
            return ready

        refused = {"sides": "sides:v1 is not trusted: it carries no signature"}
        found = followed()
        assert (found["models"], found["failed"]) == ({"sums": "v1"}, refused)
        assert found["trust"] == {"keys": [name], "certificates": [], "not_before": {}, "signed_by": {"sums": name}}
        assert client.post("/predict/sides", content=b"[1]").status_code == 404
        put(tmp_path, sums_model("v2"))
        found = followed()
        assert found["models"] == {"sums": "v1"}
        assert found["failed"] == refused | {"sums": "sums:v2 is not trusted: it carries no signature"}
        older = client.post("/predict/sums/versions/v2", content=b"[1, 2]")
        assert (older.status_code, "is not trusted" in older.text) == (404, True)
        sign(tmp_path / "models" / "sums" / "v2", keys, key("ours"))
        found = followed()
        assert (found["models"], found["failed"]) == ({"sums": "v2"}, refused)
    with application(tmp_path, **{KEYS: str(public(keys, key("ours"))), NOT_BEFORE: pin}) as client:
        found = client.get("/readyz")
        assert (found.status_code, found.json()["models"]) == (503, {})
        assert "before the time that PERCEPT_NOT_BEFORE sets" in found.json()["failed"]["sums"]
    with application(tmp_path) as client:
        assert client.get("/readyz").json() == {"ready": True, "models": {"sides": "v1", "sums": "v2"}, "failed": {}}
        assert "trust" not in client.get("/models").json()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        ("", "holds no public key and no certificate in PEM"),
        ("private", "this is a private key"),
        ("rsa", "expected a key of one of the curves P-256, P-384 and P-521"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "."),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "."),
    ],
)
def test_a_file_that_holds_no_key_stops_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, reason: str
) -> None:
    file = tmp_path / "trusted.pem"
    match content:
        case "private":
            private(tmp_path, key("ours")).rename(file)
        case "rsa":
            public_key = rsa.generate_private_key(65537, 1024).public_key()
            file.write_bytes(public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        case str():
            file.write_text(content)
    good = public(tmp_path, key("another"))
    monkeypatch.setenv(KEYS, f"{good},{file}")
    with pytest.raises(ValueError, match=f"^{KEYS}: {file}: .*{reason}"):
        Trust.from_environment()


def test_variables_that_mean_nothing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Trust.from_environment() is None
    monkeypatch.setenv(NOT_BEFORE, "2026-11-28")
    with pytest.raises(ValueError, match=f"{NOT_BEFORE} needs {KEYS}"):
        Trust.from_environment()
    monkeypatch.setenv(KEYS, " ,")
    with pytest.raises(ValueError, match="names no file"):
        Trust.from_environment()
    root = certificate("root", key("root"), is_authority=True)
    two = public(tmp_path, key("ours")).read_bytes() + public(tmp_path, key("another")).read_bytes()
    (tmp_path / "two.pub").write_bytes(two)
    monkeypatch.setenv(KEYS, f"{tmp_path / 'two.pub'}, {written(tmp_path, root)}")
    monkeypatch.setenv(NOT_BEFORE, "2026-11-28, digits=2026-12-01T08:00+01:00")
    trust = Trust.from_environment()
    assert trust is not None
    assert (len(trust.keys), [*trust.authorities]) == (2, [root])
    assert trust.state()["not_before"] == {"*": "2026-11-28T00:00:00Z", "digits": "2026-12-01T07:00:00Z"}
    for wrong in ("", "digits", "digits=soon", "2026-13-01", "2027-01-01, 2026-01-01", "a=2027-01-01,a = 2026-01-01"):
        monkeypatch.setenv(NOT_BEFORE, wrong)
        with pytest.raises(ValueError, match=f"^{NOT_BEFORE}"):
            Trust.from_environment()


def test_a_key_that_cannot_sign_is_named(tmp_path: Path) -> None:
    def reason(file: Path, *certificates: Path) -> str:
        with pytest.raises(UserError) as refused:
            Signer(file, certificates)
        return str(refused.value)

    ours, text = private(tmp_path, key("ours")), tmp_path / "text"
    text.write_text("no key")
    assert reason(tmp_path / "absent") == f"--sign: {tmp_path / 'absent'}: No such file or directory"
    assert reason(text).startswith(f"--sign: {text}: expected a private key in PEM: ")
    assert reason(public(tmp_path, key("ours"))).startswith("--sign: ")
    assert reason(private(tmp_path, key("bitcoin", "SECP256K1"))).endswith("of the curves P-256, P-384 and P-521")
    assert reason(ours, text).startswith(f"--sign: {text}: expected a certificate in PEM: ")
    theirs = written(tmp_path, certificate("theirs", key("another")))
    assert reason(ours, theirs) == f"--certificate {theirs}: is not the certificate of {ours}"
