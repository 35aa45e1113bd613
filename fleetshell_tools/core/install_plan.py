"""What is to be installed, worked out before anything is: requirements of this machine, what is missing, what was given."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleetshell_tools.core.catalogue import Entry, Need
from fleetshell_tools.core.errors import BadArgument, FleetShellError
from fleetshell_tools.core.masking import mask_arguments
from fleetshell_tools.core.packages import Installer, Package
from fleetshell_tools.core.types import Cancellation


@dataclass(frozen=True)
class Plan:
    """What is to be installed, started and written; all of it is plain data, so that it can wait in a file.

    `env` and `headers` are as the server's file will have them; `given` names what a model gave of them, `missing` says what has
    to be added before it can start, `wants` what its calls will miss.
    """

    mcp_id: str
    package_name: str
    name: str
    description: str
    tags: list[str]
    registry: str
    package: str
    version: str
    integrity: str = ""
    program: str = ""
    url: str = ""
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    enable: bool = True
    entry: str = ""
    lock: str = ""
    dependencies: int | None = None
    scripts: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wants: list[str] = field(default_factory=list)
    staged_at: str = ""

    @property
    def spec(self) -> str:
        return str(Package(self.registry, self.package, self.version)) if self.package else self.url

    def fields(self) -> dict[str, Any]:
        """What the audit log says of it: no value of a variable."""
        names = [f"{name}=" for name in (self.env or self.headers)]
        return {
            "mcp_id": self.mcp_id,
            "command": " ".join(["install", self.spec, *mask_arguments([self.program, *self.args])[1:], *names]),
            "integrity": self.integrity or None,
        }


@dataclass(frozen=True)
class Wish:
    """What somebody asked for: a package by its word in the catalogue or by its exact version, and what to give it."""

    asked: str
    mcp_id: str
    env: Mapping[str, str]
    args: Sequence[str]
    enable: bool

    @property
    def given(self) -> list[str]:
        """What was given along, without values of variables."""
        return [
            *(f"env {name}" for name in self.env),
            *(f"argument {arg}" for arg in mask_arguments(["", *self.args])[1:]),
        ]


@dataclass(frozen=True)
class Installed:
    """What came of a request: `installed` is False where it is staged, `already` where there was nothing to do."""

    plan: Plan
    installed: bool
    enabled: bool
    already: bool = False


def plan_entry(entry: Entry, wish: Wish, installer: Installer, data: Path) -> Plan:
    """The plan for an entry of the catalogue.

    Args:
        data: The folder for what the server keeps.

    Raises:
        FleetShellError: This machine lacks what it can't be installed without.
        BadArgument: A variable is given that a remote server has no place for.
    """
    blocking, wants = requirements(entry, installer)
    if blocking:
        raise FleetShellError(f"{entry.name} can't be installed on this machine. {' '.join(blocking)}")
    values = dict(wish.env)
    missing = []
    for variable in entry.variables:
        if variable.name in wish.env:
            continue
        if variable.default is not None:
            values[variable.name] = variable.default.replace("{data}", str(data))
        elif variable.required:
            values[variable.name] = f"${{env:{variable.name}}}"
            if not os.environ.get(variable.name):
                missing.append(f"{variable.name} ({variable.description})")
    headers = dict(entry.headers)
    if entry.url:
        values = {}
        known = [variable.name for variable in entry.variables]
        for name, value in wish.env.items():
            if name not in known:
                raise BadArgument(
                    f"{entry.name} runs elsewhere and takes no variable {name[:80]}; it takes {', '.join(known)}."
                )
            headers = {key: text.replace(f"${{env:{name}}}", value) for key, text in headers.items()}
        if wish.args:
            raise BadArgument(f"{entry.name} runs elsewhere and takes no arguments.")
    if entry.asks and not wish.args:
        missing.append(f"an argument ({entry.asks})")
    asked = wish.asked.strip()
    return Plan(
        mcp_id=wish.mcp_id, package_name=entry.package_name if asked == entry.id else asked, name=entry.name,
        description=entry.description, tags=list(entry.tags), registry=entry.registry, package=entry.package,
        version=entry.version, integrity=" ".join(entry.integrity), program=entry.program, url=entry.url,
        args=[*entry.arguments, *wish.args], env=values, headers=headers, enable=wish.enable, entry=entry.id,
        given=wish.given, missing=missing, wants=wants,
    )  # fmt: skip


def plan_package(package: Package, wish: Wish, installer: Installer, cancelled: Cancellation) -> Plan:
    """The plan for a package that nobody has reviewed; it is looked up in its registry.

    Raises:
        FleetShellError: It can't be found or installed here.
    """
    problem = installer.problem(package.registry)
    if problem:
        raise FleetShellError(f"{package} can't be installed on this machine. {problem}")
    found = installer.resolve(package, cancelled)
    return Plan(
        mcp_id=wish.mcp_id, package_name=wish.asked.strip(), name=wish.mcp_id, description=f"{package}, which nobody has reviewed",
        tags=[], registry=package.registry, package=package.name, version=package.version, integrity=found.integrity,
        program=found.program, args=list(wish.args), env=dict(wish.env), enable=wish.enable, lock=found.lock,
        dependencies=found.dependencies, scripts=list(found.scripts), given=wish.given,
    )  # fmt: skip


def requirements(entry: Entry, installer: Installer) -> tuple[list[str], list[str]]:
    """What this machine lacks: without the first it can't be installed, without the second its calls will fail; sentences."""
    blocking: list[str] = []
    wanted: list[str] = []
    problem = "" if entry.registry == "remote" else installer.problem(entry.registry)
    if problem:
        blocking.append(problem)
    for need in entry.needs:
        said = _lacking(need, installer)
        if said and not (problem and need.name in problem):
            (wanted if need.soft else blocking).append(said)
    return blocking, wanted


def _lacking(need: Need, installer: Installer) -> str:
    if need.platforms:
        here = f"{sys.platform}-{platform.machine()}"
        return "" if here in need.platforms else f"It runs on {', '.join(need.platforms)}, and this is {here}."
    # Without a program it is Python, and then ours.
    found = installer.version(need.programs) if need.programs else platform.python_version()
    wanted = f"{need.name} {need.version} or newer" if need.version else need.name
    if found is None:
        return f"It needs {wanted}, which is not on this machine; install it."
    if need.version and _numbers(found) < _numbers(need.version):
        return f"It needs {wanted}, and this machine has {found or 'an unknown version'}; update it."
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:3])
