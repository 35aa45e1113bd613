"""Running npm and pip: real packages from their locks, and package managers that fail in the ways they fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleetshell_tools.core import catalogue
from fleetshell_tools.core.catalogue import Entry
from fleetshell_tools.core.errors import Cancelled, FleetShellError, NotFound, Refused, TimedOut
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.installing import Marketplace
from fleetshell_tools.core.mcps import Mcp
from fleetshell_tools.core.packages import Package
from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.relay import installer, upstream
from fleetshell_tools.relay.installer import PackageManagers
from fleetshell_tools.relay.upstream_trial import try_once

EVERYTHING, TIME = (next(entry for entry in catalogue.entries() if entry.id == name) for name in ("everything", "time"))
TINY = Package("npm", "is-number", "7.0.0")


def package_of(entry: Entry) -> Package:
    return Package(entry.registry, entry.package, entry.version)


def install(entry: Entry, folder: Path, lock: str = "") -> Path:
    """Install an entry of the catalogue; skips the test where that can't be."""
    folder.mkdir()
    managers = PackageManagers()
    if managers.problem(entry.registry):
        pytest.skip(managers.problem(entry.registry))
    try:
        return managers.install(package_of(entry), lock or entry.lock(), entry.program, folder, Cancellation())
    except FleetShellError as error:
        if "can't be reached" in error.message:
            pytest.skip(error.message)
        raise


def tried(entry: Entry, program: Path, tmp_path: Path) -> None:
    """Start it, and find the tools that were reviewed."""
    if not upstream.available():
        pytest.skip("the package mcp is not installed")
    home = Home(tmp_path / "home")
    home.logs.mkdir(parents=True)
    trial = try_once(Mcp(id=entry.id, command=str(program), args=entry.arguments), home, entry.smoke)
    assert len(trial.tools) == entry.tools
    assert catalogue.tools_digest(trial.tools) == entry.tools_sha256
    assert trial.smoke_ok, trial.smoke


def test_an_npm_package_is_installed_from_its_lock_and_starts(tmp_path: Path) -> None:
    program = install(EVERYTHING, tmp_path / "everything")
    assert program == tmp_path / "everything/node_modules/.bin/mcp-server-everything"
    tried(EVERYTHING, program, tmp_path)


def test_a_python_package_is_installed_from_its_lock_and_starts(tmp_path: Path) -> None:
    program = install(TIME, tmp_path / "time")
    assert program == tmp_path / "time/bin/mcp-server-time"
    tried(TIME, program, tmp_path)


@pytest.mark.parametrize("entry", [EVERYTHING, TIME], ids=["npm", "pypi"])
def test_a_package_with_another_hash_is_not_installed(entry: Entry, tmp_path: Path) -> None:
    lock = entry.lock()
    if entry.registry == "npm":
        lock = lock.replace(entry.integrity[0], "sha512-" + "A" * 86 + "==")
    else:
        lines = [line for line in lock.splitlines() if not line.startswith(f"{entry.package}==")]
        lock = "\n".join([f"{entry.package}=={entry.version} --hash=sha256:{'0' * 64}", *lines])
    with pytest.raises(Refused, match="is not what was reviewed"):
        install(entry, tmp_path / "changed", lock)


def test_an_unknown_package_is_not_found(tmp_path: Path) -> None:
    managers = PackageManagers()
    if managers.problem("npm"):
        pytest.skip(managers.problem("npm"))
    try:
        with pytest.raises(NotFound, match="there is no @fleetshell-test/no-such-thing@1.0.0|There is no"):
            managers.resolve(Package("npm", "@fleetshell-test/no-such-thing", "1.0.0"), Cancellation())
    except FleetShellError as error:
        if "can't be reached" not in error.message:
            raise
        pytest.skip(error.message)


def test_a_package_without_a_program_is_refused(tmp_path: Path) -> None:
    managers = PackageManagers()
    if managers.problem("npm"):
        pytest.skip(managers.problem("npm"))
    with pytest.raises(FleetShellError, match="it has no program|can't be reached") as caught:
        managers.resolve(TINY, Cancellation())
    if "can't be reached" in caught.value.message:
        pytest.skip(caught.value.message)


@pytest.fixture
def no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network, and with nothing fetched earlier."""
    for name, value in {
        "npm_config_registry": "http://127.0.0.1:9/", "npm_config_cache": str(tmp_path / "cache"), "npm_config_fetch_retries": "0",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple/", "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "1", "PIP_CONFIG_FILE": os.devnull,
        "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("no_registry")
@pytest.mark.parametrize("entry", [EVERYTHING, TIME], ids=["npm", "pypi"])
def test_without_a_network_it_says_so(entry: Entry, tmp_path: Path) -> None:
    managers, folder = PackageManagers(), tmp_path / "folder"
    if managers.problem(entry.registry):
        pytest.skip(managers.problem(entry.registry))
    folder.mkdir()
    with pytest.raises(FleetShellError, match="registry can't be reached. Check the network"):
        managers.install(package_of(entry), entry.lock(), entry.program, folder, Cancellation())


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own, with half a megabyte of space."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(folder)]).returncode:
        pytest.skip("needs to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("entry", [EVERYTHING, TIME], ids=["npm", "pypi"])
def test_a_disk_that_fills_up_in_mid_install_is_named_and_nothing_is_left(entry: Entry, full_disk: Path) -> None:
    home = Home(full_disk / "home")
    (home.path / "mcps").mkdir(0o700, parents=True)
    events: list[str] = []
    market = Marketplace(home, PackageManagers())
    with pytest.raises(FleetShellError, match="(?i)the disk is full|can't be reached|Node.js|venv") as caught:
        market.request(entry.id, record=lambda event, **fields: events.append(event), cancelled=Cancellation())
    if "disk is full" not in caught.value.message.lower():
        pytest.skip(caught.value.message)
    assert events == ["mcp_installing", "mcp_install_failed"]
    assert not list((home.path / "mcps").glob("*.conf")) and market.installed() == {}
    assert [path.name for path in (home.path / "mcps" / "store" / entry.id).iterdir()] == [".lock"]


# Package managers that only say something


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script in the place of npm (and of node), and nothing else but a few tools on the PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for tool in ("sh", "sleep", "env", "cat"):
        found = shutil.which(tool)
        assert found is not None
        (programs / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(programs))

    def make(script: str) -> Path:
        for name in ("npm", "node"):
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o700)
        return programs

    return make


def lock_of(package: Package, **more: object) -> str:
    own = {"version": package.version, "integrity": "sha512-x", **more}
    return json.dumps({"lockfileVersion": 3, "packages": {"": {}, f"node_modules/{package.name}": own}})


def run(tmp_path: Path, lock: str = "", cancelled: Cancellation | None = None) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    return PackageManagers().install(TINY, lock or lock_of(TINY), "tiny", folder, cancelled or Cancellation())


@pytest.mark.parametrize(
    ("says", "kind", "sentence"),
    [
        ("npm error code EINTEGRITY", Refused, "is not what was reviewed"),
        ("npm error code E404", NotFound, "There is no is-number@7.0.0"),
        ("npm error code ETARGET", NotFound, "There is no is-number@7.0.0"),
        ("npm error request failed, reason: getaddrinfo EAI_AGAIN", FleetShellError, "registry can't be reached"),
        ("npm error code ENOSPC: no space left on device", FleetShellError, "the disk is full"),
        ("npm error code EACCES", FleetShellError, "a file may not be written"),
        ("npm error code EUSAGE", FleetShellError, "could not be installed"),
        ("NewConnectionError\nERROR: No matching distribution found", FleetShellError, "registry can't be reached"),
    ],
)
def test_what_npm_says_becomes_a_sentence(
    npm: Callable[[str], Path], tmp_path: Path, says: str, kind: type[FleetShellError], sentence: str
) -> None:
    npm(f"echo '{says}' >&2; exit 1")
    with pytest.raises(kind, match=f"(?i){sentence}") as caught:
        run(tmp_path)
    assert type(caught.value) is kind
    assert (says in caught.value.seen) == ("EUSAGE" in says)


def test_a_file_that_npm_only_warns_of_fails_the_installation(npm: Callable[[str], Path], tmp_path: Path) -> None:
    npm("echo 'npm warn tar TAR_ENTRY_ERROR ENOSPC: no space left on device, write' >&2")
    with pytest.raises(FleetShellError, match="The disk is full"):
        run(tmp_path)


def test_npm_is_asked_to_run_no_scripts_and_sees_no_secret(
    npm: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_PERSONAL_ACCESS_TOKEN", "secret")
    monkeypatch.setenv("FLEETSHELL_API_KEY", "secret")
    monkeypatch.setenv("npm_config_userconfig", "/kept")
    npm('echo "$@" >arguments; env >environment; exit 1')
    with pytest.raises(FleetShellError):
        run(tmp_path)
    arguments = (tmp_path / "folder/arguments").read_text().split()
    assert arguments[0] == "ci" and "--ignore-scripts" in arguments
    environment = (tmp_path / "folder/environment").read_text()
    assert "secret" not in environment and "npm_config_userconfig=/kept" in environment


def test_a_program_that_is_not_there_afterwards_is_named(npm: Callable[[str], Path], tmp_path: Path) -> None:
    npm("exit 0")
    with pytest.raises(FleetShellError, match="there is no program tiny in it"):
        run(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"resolved": "git+ssh://git@example.com/x.git"},
        {"link": True},
        {"integrity": ""},
        {"integrity": "sha1-x"},
        {"version": "6.0.0"},
    ],
)
def test_a_lock_with_something_from_elsewhere_is_refused_before_npm_runs(
    npm: Callable[[str], Path], tmp_path: Path, entry: dict[str, object]
) -> None:
    npm("echo ran >ran")
    with pytest.raises(Refused, match="can't be installed"):
        run(tmp_path, lock_of(TINY, **entry))
    assert not (tmp_path / "folder/ran").exists()


def test_cancelling_ends_npm_and_its_children(npm: Callable[[str], Path], tmp_path: Path) -> None:
    started = tmp_path / "started"
    npm(f"sleep 600 & echo >'{started}'; wait")
    cancelled = Cancellation()

    def cancel() -> None:
        while not started.exists() and not cancelled.wait(0.01):
            pass
        cancelled.set("the client has gone")

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        with pytest.raises(Cancelled, match="the client has gone"):
            run(tmp_path, cancelled=cancelled)
    finally:
        cancelled.set()
        thread.join()


def test_an_installation_that_takes_too_long_is_ended(
    npm: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "INSTALL_SECONDS", 0.1)
    npm("sleep 600")
    with pytest.raises(TimedOut, match="took longer than"):
        run(tmp_path)


def test_a_machine_without_npm_is_told_what_to_install(npm: Callable[[str], Path], tmp_path: Path) -> None:
    assert "no node and no npm here" in PackageManagers().problem("npm")
    with pytest.raises(FleetShellError, match="npm can't be run"):
        run(tmp_path)


def test_a_python_without_venv_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "python3-venv" in PackageManagers().problem("pypi")


@pytest.mark.parametrize(
    ("script", "version"), [("echo v22.5.1", "22.5.1"), ("echo Google Chrome 140.0.1 beta", "140.0.1"), ("exit 1", "")]
)
def test_the_version_of_a_program_is_read(npm: Callable[[str], Path], script: str, version: str) -> None:
    npm(script)
    assert PackageManagers().version(["nothing", "node"]) == version
    assert PackageManagers().version(["nothing"]) is None


@pytest.mark.parametrize(
    ("programs", "chosen"),
    [
        ({"a": "x.js"}, "a"),
        ({"a": "x.js", "b": "x.js"}, "a"),
        ({"a": "x.js", "is-number": "y.js"}, "is-number"),
    ],
)
def test_the_program_is_chosen_as_npx_does(programs: dict[str, str], chosen: str) -> None:
    assert installer._npm_program(TINY, programs) == chosen


def test_a_package_with_several_strange_programs_is_refused() -> None:
    with pytest.raises(Refused, match="its programs are a, b, and none is named like it"):
        installer._npm_program(TINY, {"a": "x", "b": "y"})
