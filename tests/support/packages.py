"""In place of the package managers, where a test is not about them: what it installs is a program that only exists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.packages import Package, Resolved
from fleetshell_tools.core.types import Cancellation


@dataclass
class Shelf:
    """An `Installer` that has every package; `versions` are the programs of the machine."""

    versions: dict[str, str] = field(
        default_factory=lambda: {"node": "22.11.0", "git": "2.40.1", "google-chrome": "140.0"}
    )
    lacks: str = ""
    failure: FleetShellError | None = None
    calls: list[tuple[str, str]] = field(default_factory=list)
    locks: list[str] = field(default_factory=list)

    def problem(self, registry: str) -> str:
        return self.lacks

    def version(self, programs: Iterable[str]) -> str | None:
        return next((self.versions[name] for name in programs if name in self.versions), None)

    def resolve(self, package: Package, cancelled: Cancellation) -> Resolved:
        self.calls.append(("resolve", str(package)))
        return Resolved("a lock", "sha512-abc", 7, ("esbuild",), package.name.rpartition("/")[2])

    def install(self, package: Package, lock: str, program: str, folder: Path, cancelled: Cancellation) -> Path:
        self.calls.append(("install", str(package)))
        self.locks.append(lock)
        path = folder / program
        path.write_text("#!/bin/sh\n")
        path.chmod(0o700)
        if self.failure is not None:
            raise self.failure
        return path

    @property
    def installed(self) -> list[str]:
        return [package for what, package in self.calls if what == "install"]
