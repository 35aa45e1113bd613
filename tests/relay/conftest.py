"""The HTTP server of the relay's tests: started in a thread, without TLS and with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.gateway import Desk, desk
from support.http_client import Running, Serve, client_context, make_certificate, running, server_context

from fleetshell_tools.relay.httpd import Limits


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def serve_tls(certificate: Path) -> Serve:
    return partial(running, server_tls=server_context(certificate), client_tls=client_context(certificate))


@pytest.fixture(params=["plain", "tls"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Starts a server with the given limits; the test runs once without and once with TLS."""
    return running if request.param == "plain" else request.getfixturevalue("serve_tls")


@pytest.fixture
def http_server(serve: Serve) -> Iterator[Running]:
    with serve(Limits()) as server:
        yield server


@pytest.fixture
def relay() -> Iterator[Desk]:
    """A gateway behind an HTTP server, with a clock that stands still."""
    with desk() as made:
        yield made
