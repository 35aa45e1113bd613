"""Certificates made and read without openssl, compared with what openssl says of them."""

from __future__ import annotations

import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from support.certificates import put_signed_certificate

from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.relay import p256, tls, x509

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl, to compare with")


def openssl(*arguments: str) -> str:
    run = subprocess.run(["openssl", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_openssl_verifies_the_signature_and_that_the_key_belongs_to_the_certificate(tmp_path: Path) -> None:
    for _ in range(8):  # a number whose first bit is set is written otherwise, so one key would not show it
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        tls.create(cert, key, ["relay.example.com", "192.0.2.7", "2001:db8::7"])
        assert openssl("verify", "-x509_strict", "-CAfile", str(cert), "-purpose", "sslserver", str(cert)).endswith(
            "OK\n"
        )
        assert openssl("x509", "-noout", "-pubkey", "-in", str(cert)) == openssl("pkey", "-pubout", "-in", str(key))
        openssl("pkey", "-check", "-noout", "-in", str(key))


def test_openssl_reads_what_was_written(tmp_path: Path) -> None:
    made = tls.create(tmp_path / "cert.pem", tmp_path / "key.pem", ["relay.example.com", "2001:db8::7"])
    shown = openssl("x509", "-noout", "-text", "-in", str(tmp_path / "cert.pem"))
    assert "Subject: CN = relay.example.com, O = FleetShell relay" in shown
    assert "DNS:relay.example.com" in shown and "IP Address:2001:DB8:0:0:0:0:0:7" in shown
    assert "CA:FALSE" in shown and "TLS Web Server Authentication" in shown and "Digital Signature" in shown
    assert made.ends.strftime("%b %e %H:%M:%S %Y GMT") in shown
    assert made.self_signed


def test_a_certificate_of_a_ca_is_read(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    put_signed_certificate(tmp_path / "certs", tmp_path)
    found = tls.read(tmp_path / "certs" / "cert.pem")
    assert "relay.example.com" in found.names
    assert not found.self_signed


def test_the_key_of_a_known_secret_is_the_one_of_the_standard() -> None:
    """RFC 6979, section A.2.5."""
    secret = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
    assert p256.public_bytes(secret).hex() == (
        "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
        "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
    )


@pytest.mark.parametrize("year", [2030, 2060])
def test_moments_are_written_as_their_century_asks(year: int) -> None:
    begins = datetime(2026, 1, 1, tzinfo=timezone.utc)
    ends = datetime(year, 5, 6, 7, 8, 9, tzinfo=timezone.utc)
    certificate, _ = x509.self_signed_leaf("x", ["x"], [], begins, ends)
    assert x509.read(certificate).ends == ends


def test_what_is_cut_or_changed_is_refused_and_never_more_than_that() -> None:
    begins = datetime(2026, 1, 1, tzinfo=timezone.utc)
    certificate, _ = x509.self_signed_leaf("x", ["x"], ["192.0.2.1"], begins, begins + timedelta(days=1))
    for size in range(len(certificate)):
        with pytest.raises(ValueError, match="not a certificate"):
            x509.read(certificate[:size])


def test_a_certificate_that_may_not_be_read_is_told_from_one_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").mkdir()
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        tls.read(tmp_path / "cert.pem")
