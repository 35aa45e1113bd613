"""The self-signed certificate and the server's TLS settings."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from fleetshell_tools.core.errors import ConfigError, FleetShellError
from fleetshell_tools.relay import tls


def test_a_certificate_names_every_host_given_and_loopback(tmp_path: Path) -> None:
    made = tls.create(tmp_path / "cert.pem", tmp_path / "key.pem", ["relay.example.com", "192.0.2.7", "2001:db8::7"])
    assert {"relay.example.com", "localhost"} <= set(made.names)
    assert {"192.0.2.7", "2001:db8::7", "127.0.0.1", "::1"} <= set(made.addresses)
    assert made == tls.read(tmp_path / "cert.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["cert.pem", "key.pem"]


def test_a_host_name_that_is_none_is_refused(tmp_path: Path) -> None:
    for name in ("two words", "a,DNS:evil", "-x", "a\nb", ""):
        with pytest.raises(FleetShellError, match="neither a host name nor an IP address"):
            tls.create(tmp_path / "cert.pem", tmp_path / "key.pem", [name])


def test_the_server_speaks_tls_1_2_or_newer_alone(tmp_path: Path) -> None:
    tls.create(tmp_path / "cert.pem", tmp_path / "key.pem", [])
    context = tls.server_context(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_certificate_and_a_foreign_key_are_refused_together(tmp_path: Path) -> None:
    tls.create(tmp_path / "cert.pem", tmp_path / "key.pem", [])
    tls.create(tmp_path / "cert2.pem", tmp_path / "key2.pem", [])
    with pytest.raises(ConfigError, match="can't be used together"):
        tls.server_context(tmp_path / "cert.pem", tmp_path / "key2.pem")
    with pytest.raises(ConfigError, match="does not exist"):
        tls.server_context(tmp_path / "none.pem", tmp_path / "key.pem")
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(ConfigError, match="not a certificate"):
        tls.read(tmp_path / "junk.pem")
