"""A certificate that browsers would not take is found before anything starts."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from steps import tls
from testbed.certificates import DAY, Authority
from toolbox.console import Failure
from torchroom import public

HOST = "hub.school.edu"
PEM = serialization.Encoding.PEM


def read(
    files: tuple[Path, Path], *, url: str = f"https://{HOST}", subdomains: str = "0"
) -> tls.Site:
    """What ``make up`` makes of a certificate and its key."""
    return tls.read(
        {
            public.URL: url,
            public.SUBDOMAINS: subdomains,
            public.TLS: "files",
            public.CERTIFICATE: str(files[0]),
            public.KEY: str(files[1]),
        }
    )


def refusal(files: tuple[Path, Path], **more: str) -> str:
    """What is said about them; something to do about it is said as well."""
    with pytest.raises(Failure) as raised:
        read(files, **more)
    assert raised.value.todo
    return raised.value.what


@pytest.fixture
def known(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine trusts the tests' authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))


def self_signed(
    folder: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
) -> tuple[Path, Path]:
    """The files of a certificate for the hub with this key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key())
        .serial_number(1)
        .not_valid_before(now - DAY)
        .not_valid_after(now + 30 * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "odd.pem", folder / "odd.key"
    files[0].write_bytes(certificate.public_bytes(PEM))
    files[1].write_bytes(
        key.private_bytes(
            PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@pytest.mark.usefixtures("known")
def test_a_good_one_is_taken(
    authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a name, for names below it, for an address; nothing is said about it."""
    read(authority.issue(HOST))
    read(authority.issue("*.school.edu"))
    read(authority.issue(HOST, f"*.{HOST}"), subdomains="1")
    read(authority.issue("10.0.0.5"), url="https://10.0.0.5:8443")
    assert capsys.readouterr().out == ""


def test_one_that_ends_soon_is_taken_and_told(
    authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is time to renew it."""
    read(authority.issue(HOST, ends=3 * DAY + timedelta(hours=1)))
    assert "ends in 3.0 days" in capsys.readouterr().out


def test_one_without_its_chain_is_taken_and_told(
    authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    """Browsers may find the rest by themselves; other programs do not."""
    certificate, key = authority.issue(HOST)
    read((certificate, key))
    assert "without its chain" in capsys.readouterr().out
    with certificate.open("ab") as file:
        file.write(authority.certificate.read_bytes())
    read((certificate, key))
    assert capsys.readouterr().out == ""


def test_one_out_of_time_is_refused(authority: Authority) -> None:
    """Too late and too early."""
    assert "has expired" in refusal(authority.issue(HOST, starts=-2 * DAY, ends=-DAY))
    assert "not yet valid" in refusal(authority.issue(HOST, starts=DAY))


def test_one_for_another_name_is_refused(authority: Authority) -> None:
    """Also if only the users' names are missing."""
    assert HOST in refusal(authority.issue("other.school.edu"))
    assert f"user.{HOST}" in refusal(authority.issue(HOST), subdomains="1")
    assert "10.0.0.5" in refusal(authority.issue(HOST), url="https://10.0.0.5")


def test_a_key_that_does_not_fit_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    """The two are of each other or of no use; also where the kinds differ."""
    certificate, _ = authority.issue(HOST)
    _, key = authority.issue(HOST)
    assert "does not fit" in refusal((certificate, key))
    _, other = self_signed(tmp_path, rsa.generate_private_key(65537, 2048))
    assert "does not fit" in refusal((certificate, other))


def test_the_certificate_itself_comes_first(authority: Authority) -> None:
    """A chain in the other order looks like a key of another certificate."""
    certificate, key = authority.issue(HOST)
    chain = authority.certificate.read_bytes()
    certificate.write_bytes(chain + certificate.read_bytes())
    with pytest.raises(Failure, match="does not fit") as raised:
        read((certificate, key))
    assert "comes first" in raised.value.todo


def test_a_key_that_browsers_refuse_is_refused(tmp_path: Path) -> None:
    """Too weak, or of a kind that none of them knows."""
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    assert "key too small" in refusal(self_signed(tmp_path, weak))
    odd = ec.generate_private_key(ec.SECP256K1())
    assert f"not take the certificate for {HOST}" in refusal(self_signed(tmp_path, odd))


def test_a_key_with_a_passphrase_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    """Nobody is there to type it when the machine starts at night."""
    certificate, key = authority.issue(HOST)
    secret = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    assert "passphrase" in refusal((certificate, locked))


def test_files_that_are_none_are_refused(authority: Authority, tmp_path: Path) -> None:
    """A file that is not there, a folder, and something else."""
    certificate, key = authority.issue(HOST)
    other = tmp_path / "readme"
    other.write_text("nothing of the kind")
    assert public.CERTIFICATE in refusal((tmp_path / "none", key))
    assert public.KEY in refusal((certificate, tmp_path))
    assert "PEM" in refusal((other, key))
    assert "PEM" in refusal((certificate, other))


def test_the_container_is_who_may_read_the_key(authority: Authority) -> None:
    """Root's key is read as root, which has no rights else there."""
    files = authority.issue(HOST)
    owner = files[1].stat()
    told = tls.variables(read(files))
    assert told["TORCHROOM_TLS_USER"] == f"{owner.st_uid}:{owner.st_gid}"
    files[1].chmod(files[1].stat().st_mode | stat.S_IROTH)
    assert tls.variables(read(files))["TORCHROOM_TLS_USER"] == "1000:1000"


def test_a_renewed_certificate_makes_a_new_container(authority: Authority) -> None:
    """Compose sees a label that differs."""
    first, again = (tls.variables(read(authority.issue(HOST))) for _ in range(2))
    assert first["TORCHROOM_TLS_DIGEST"] != again["TORCHROOM_TLS_DIGEST"]


def test_what_is_for_this_machine_listens_nowhere_else(authority: Authority) -> None:
    """Whatever else is set."""
    local = read(authority.issue("hub.localhost"), url="https://hub.localhost:8443")
    assert tls.variables(local)["TORCHROOM_TLS_ADDRESS"] == "127.0.0.1:"
    world = tls.variables(read(authority.issue(HOST)))
    assert world["TORCHROOM_TLS_ADDRESS"] == ""
    assert "TORCHROOM_PROXY_ROUTING" not in world
    below = tls.variables(read(authority.issue(HOST, f"*.{HOST}"), subdomains="1"))
    assert below["TORCHROOM_PROXY_ROUTING"] == "--host-routing"
