"""What every test can ask for: a real sshd, keys, a short folder; and the check that no test leaves anything behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import processes
from support.leaks import Snapshot, nothing_left_behind
from support.mcp_client import Client, connected
from support.relay import RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd, make_key
from support.systemd_host import CannotRun, SystemdHost, prepare


def pytest_configure() -> None:
    processes.mark_this_process()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the systemd host's folder before the first test: in a fixture it would run into the limit of a test's time."""
    wanted = any("systemd_host" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        prepare()


@pytest.fixture(scope="session", autouse=True)
def no_leaks_in_the_session() -> Iterator[Snapshot]:
    """Fail the last test if a fixture of a wider scope leaves anything behind."""
    with nothing_left_behind("the session, or a fixture of a module,") as before:
        yield before


@pytest.fixture(autouse=True)
def no_leaks(no_leaks_in_the_session: Snapshot) -> Iterator[None]:
    """Fail the test if it, or one of its fixtures, leaves anything behind."""
    with nothing_left_behind("this test", no_leaks_in_the_session):
        yield


@pytest.fixture(scope="session")
def relay_key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """The key that every test's sshd lets in."""
    return make_key(tmp_path_factory.mktemp("key") / "relay_key")


@pytest.fixture(scope="session")
def sshd(relay_key: KeyPair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One server for all tests that leave it as it is."""
    server = Sshd(tmp_path_factory.mktemp("sshd"), relay_key.public, shared=True)
    yield server
    server.stop()


@pytest.fixture
def sshd_factory(relay_key: KeyPair, tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """Makes servers for this test alone; takes the settings of `Sshd`, and `authorized_keys` where it is not `relay_key`."""
    servers: list[Sshd] = []

    def make(**settings: Any) -> Sshd:
        folder = tmp_path / f"sshd{len(servers)}"
        servers.append(Sshd(folder, settings.pop("authorized_keys", relay_key.public), **settings))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def systemd_host(relay_key: KeyPair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdHost]:
    """A booted Debian with systemd, a journal and nginx, for all tests that leave it as it is (or put it back)."""
    try:
        host = SystemdHost(tmp_path_factory.mktemp("systemd"), relay_key)
    except CannotRun as error:
        pytest.skip(str(error))
    yield host
    host.stop()


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder with a path short enough for Unix sockets (108 bytes in all), removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fs", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def shared_home(relay_key: KeyPair, sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> RelayHome:
    """A home with two servers, `web-1` and `web-2`, for tests that leave its configuration as it is."""
    home = make_home(tmp_path_factory.mktemp("home") / "fleetshell", relay_key.private)
    home.add("web-1", sshd, "--tags", "web,test", "--env", "staging", "--purpose", "First web server")
    home.add("web-2", sshd, "--tags", "web", "--env", "production")
    return home


@pytest.fixture(scope="session")
def relay(shared_home: RelayHome) -> Iterator[RelayProcess]:
    """One running relay for all tests that only use it."""
    process = RelayProcess(shared_home, shared=True)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def open_relay(tmp_path_factory: pytest.TempPathFactory, relay_key: KeyPair, sshd: Sshd) -> Iterator[RelayProcess]:
    """A relay of the module's own without MFA, so that each test can call tools; it has three servers."""
    home = make_home(tmp_path_factory.mktemp("open") / "home", relay_key.private)
    home.run("auth", "disable")
    for name in ("web-1", "db-1", "mail-1"):
        home.add(name, sshd)
    process = RelayProcess(home, shared=True)
    yield process
    process.stop()


@pytest.fixture
def client(open_relay: RelayProcess) -> Iterator[Client]:
    """A client of `open_relay` with a session of its own."""
    with connected(open_relay) as made:
        yield made
