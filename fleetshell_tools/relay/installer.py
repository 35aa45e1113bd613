"""Runs npm and pip for the marketplace: exact versions from a lock, checked by their hashes, no code of a package run.

npm installs with `npm ci --ignore-scripts`; Python packages go into a virtual environment of their own, as wheels alone, with
`pip install --require-hashes`: building from source would run code.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fleetshell_tools.core.errors import Cancelled, FleetShellError, NotFound, Refused, TimedOut
from fleetshell_tools.core.packages import Package, Resolved
from fleetshell_tools.core.text import clean
from fleetshell_tools.core.types import Cancellation

INSTALL_SECONDS = 600.0
"""The longest that a package manager may take."""
VERSION_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_SHOWN = 2000

_KEPT = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
)
_KEPT_BEGINNINGS = ("npm_config_", "pip_", "http_proxy", "https_proxy", "no_proxy", "all_proxy")
"""How the names of what else a package manager gets to see begin, in small letters: where it fetches from, and through what."""

_NPM = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=warn")
_PIP = ("-m", "pip", "--no-input", "--disable-pip-version-check", "--quiet", "install", "--only-binary", ":all:")

DISK_FULL = "the disk is full, so {what} could not be installed. Free some space and try again"
_HARDLY_ANY = 1 << 20
"""Bytes of free space below which a failure without a reason is put down to the disk."""

_REASONS: tuple[tuple[str, type[FleetShellError], str], ...] = (
    (r"EINTEGRITY|THESE PACKAGES DO NOT MATCH THE HASHES", Refused,
     "what was fetched for {what} is not what was reviewed (its hash differs). Nothing was installed; tell the operator"),
    (r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|NewConnectionError|NameResolutionError|"
     r"ConnectTimeoutError|ReadTimeoutError|ENOTCACHED", FleetShellError,
     "{what} could not be fetched: the package registry can't be reached. Check the network of this machine and try again"),
    (r"ENOSPC|No space left", FleetShellError, DISK_FULL),
    (r"\bE404\b|\bETARGET\b|No matching version found|No matching distribution found|Could not find a version", NotFound,
     "there is no {what}, or none for this machine. Check the name and the version"),
    (r"EACCES|EROFS|Permission denied|Read-only file system", FleetShellError,
     "{what} could not be installed, because a file may not be written"),
)  # fmt: skip
"""What a package manager prints, and what that means. pip goes on after it could not reach anything, and then finds nothing."""


class PackageManagers:
    """See `core.packages.Installer`.

    Args:
        python: What makes the virtual environments.
    """

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python

    def problem(self, registry: str) -> str:
        """See `Installer`."""
        if registry == "npm":
            lacking = [program for program in ("node", "npm") if shutil.which(program) is None]
            if lacking:
                return f"It needs Node.js with npm, and there is no {' and no '.join(lacking)} here. Install Node.js 20 or newer."
        elif registry == "pypi":
            if not self._python or not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
                return (
                    "It needs a Python that can make virtual environments: install the system's package python3-venv."
                )
        else:
            return f'FleetShell installs from npm and the Python registry, not from "{registry}".'
        return ""

    def version(self, programs: Iterable[str]) -> str | None:
        """See `Installer`."""
        path = next((found for found in map(shutil.which, programs) if found), None)
        if path is None:
            return None
        try:
            done = subprocess.run(
                [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=VERSION_SECONDS, env=_environment()
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return ""
        found = re.search(rb"[0-9]+(?:\.[0-9]+)+", done.stdout)
        return found[0].decode() if found else ""

    def resolve(self, package: Package, cancelled: Cancellation) -> Resolved:
        """See `Installer`."""
        with tempfile.TemporaryDirectory(prefix="fleetshell-") as name:
            folder = Path(name)
            return (self._resolve_npm if package.registry == "npm" else self._resolve_python)(
                package, folder, cancelled
            )

    def install(self, package: Package, lock: str, program: str, folder: Path, cancelled: Cancellation) -> Path:
        """See `Installer`."""
        install = self._install_npm if package.registry == "npm" else self._install_python
        return install(package, lock, program, folder, cancelled)

    # npm

    def _resolve_npm(self, package: Package, folder: Path, cancelled: Cancellation) -> Resolved:
        _write(folder / "package.json", {"name": "fleetshell-store", "private": True})
        options = [*_NPM, "--save-exact", "--package-lock-only", "--omit-lockfile-registry-resolved", "--omit=dev"]
        _run(["npm", "install", *options, str(package)], folder, str(package), cancelled)
        lock = json.loads((folder / "package-lock.json").read_bytes())
        installed = _checked(package, lock)
        others = {path: entry for path, entry in lock["packages"].items() if path and entry is not installed}
        scripts = [
            path.rpartition("node_modules/")[2]
            for path, entry in lock["packages"].items()
            if entry.get("hasInstallScript")
        ]
        program = _npm_program(package, installed.get("bin"))
        return Resolved(json.dumps(lock), installed["integrity"], len(others), tuple(sorted(scripts)), program)

    def _install_npm(self, package: Package, lock: str, program: str, folder: Path, cancelled: Cancellation) -> Path:
        locked: dict[str, Any] = json.loads(lock)
        _checked(package, locked)
        about = {"name": "fleetshell-store", "private": True, "dependencies": {package.name: package.version}}
        _write(folder / "package.json", about)
        _write(folder / "package-lock.json", {**locked, "name": "fleetshell-store"})
        _run(["npm", "ci", *_NPM, "--omit=dev"], folder, str(package), cancelled)
        return _there(folder / "node_modules" / ".bin" / program, package)

    # Python

    def _resolve_python(self, package: Package, folder: Path, cancelled: Cancellation) -> Resolved:
        python = self._environment(folder, package, cancelled)
        report = folder / "report.json"
        wanted = [str(python), *_PIP, "--dry-run", "--ignore-installed", "--report", str(report), str(package)]
        _run(wanted, folder, str(package), cancelled)
        lines: list[str] = []
        integrity = ""
        for item in json.loads(report.read_bytes())["install"]:
            name, version = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(), item["metadata"]["version"]
            digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
            if digest is None:
                raise Refused(f"{package} needs {name} {version}, for which there is no hash; it can't be installed.")
            lines.append(f"{name}=={version} --hash=sha256:{digest}")
            if name == package.name:
                integrity = f"sha256:{digest}"
        return Resolved("\n".join(lines) + "\n", integrity, len(lines) - 1, (), package.name)

    def _install_python(self, package: Package, lock: str, program: str, folder: Path, cancelled: Cancellation) -> Path:
        python = self._environment(folder, package, cancelled)
        requirements = folder / "requirements.txt"
        requirements.write_text(lock)
        _run(
            [str(python), *_PIP, "--no-deps", "--require-hashes", "-r", str(requirements)],
            folder,
            str(package),
            cancelled,
        )
        if not (folder / "bin" / program).exists():
            program = _console_script(folder, package)
        return _there(folder / "bin" / program, package)

    def _environment(self, folder: Path, package: Package, cancelled: Cancellation) -> Path:
        _run([self._python, "-m", "venv", str(folder)], folder, str(package), cancelled)
        return folder / "bin" / "python"


def _checked(package: Package, lock: dict[str, Any]) -> dict[str, Any]:
    """The lock's entry of the package itself, once every entry is known to come from the registry, with its hash.

    Raises:
        Refused: Something comes from elsewhere, or has no hash.
    """
    for path, entry in lock["packages"].items():
        if path and (
            entry.get("resolved") or entry.get("link") or not str(entry.get("integrity", "")).startswith("sha512-")
        ):
            name = path.rpartition("node_modules/")[2]
            raise Refused(
                f"{package} needs {name}, which does not come from the registry with a hash; it can't be installed."
            )
    found: dict[str, Any] | None = lock["packages"].get(f"node_modules/{package.name}")
    if found is None or found.get("version") != package.version:
        raise Refused(f"The lock of {package} names another version of it; it can't be installed.")
    return found


def _npm_program(package: Package, programs: Any) -> str:
    """Which of a package's programs starts the server, as npx chooses: the only one, or the one that is named like it."""
    names = list(programs) if isinstance(programs, dict) else []
    own = package.name.rpartition("/")[2]
    if len(set(programs.values() if isinstance(programs, dict) else ())) == 1:
        return str(names[0])
    if own in names:
        return own
    said = f"its programs are {', '.join(names)}, and none is named like it" if names else "it has no program"
    raise Refused(f"{package} can't be started: {said}.")


def _console_script(folder: Path, package: Package) -> str:
    """The only program that a Python package brings."""
    places = [str(path) for path in folder.glob("lib/python*/site-packages")]
    names: list[str] = []
    for distribution in importlib.metadata.distributions(name=package.name, path=places):
        names += [point.name for point in distribution.entry_points if point.group == "console_scripts"]
    if len(names) == 1:
        return names[0]
    said = f"its programs are {', '.join(names)}, and none is named like it" if names else "it has no program"
    raise Refused(f"{package} can't be started: {said}.")


def _there(program: Path, package: Package) -> Path:
    if not os.access(program, os.X_OK):
        raise FleetShellError(f"{package} was fetched, but there is no program {program.name} in it.")
    return program


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n")


def _environment() -> dict[str, str]:
    """What a package manager gets to see: no secret of ours."""
    kept = {
        name: value for name, value in os.environ.items() if name in _KEPT or name.lower().startswith(_KEPT_BEGINNINGS)
    }
    return {"PATH": os.defpath, **kept, "PIP_REQUIRE_VIRTUALENV": "0", "NO_COLOR": "1", "CI": "1"}


def _run(command: Sequence[str], folder: Path, what: str, cancelled: Cancellation) -> None:
    """Run a package manager to its end, in a process group of its own.

    Raises:
        FleetShellError: It failed, was cancelled or took too long; its last words are kept.
    """
    deadline = time.monotonic() + INSTALL_SECONDS
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=_environment(),
                start_new_session=True, umask=0o077,
            )  # fmt: skip
        except OSError as error:
            raise FleetShellError(
                f"{what} could not be installed: {command[0]} can't be run ({error.strerror})."
            ) from None
        try:
            while process.poll() is None:
                if cancelled.wait(_LOOK_SECONDS):
                    raise Cancelled(f"{what} was not installed: {cancelled.why}.")
                if time.monotonic() > deadline:
                    raise TimedOut(f"{what} was not installed: it took longer than {INSTALL_SECONDS:g} s. Try again.")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(max(0, said.seek(0, os.SEEK_END) - 65536))
        words = said.read().decode("utf-8", "replace")
    # To npm a file that could not be unpacked is worth a warning.
    if process.returncode or "TAR_ENTRY_ERROR" in words:
        raise _failure(words, what, folder)


def _failure(said: str, what: str, folder: Path) -> FleetShellError:
    if shutil.disk_usage(folder).free < _HARDLY_ANY:
        said = f"No space left\n{said}"
    for pattern, kind, sentence in _REASONS:
        if re.search(pattern, said):
            words = sentence.format(what=what)
            return kind(f"{words[0].upper()}{words[1:]}.")
    return FleetShellError(f"{what} could not be installed.", seen=clean(said)[-_SHOWN:])
