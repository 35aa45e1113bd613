"""Packages of the npm and Python registries by their exact version, and what a model may give them along."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fleetshell_tools.core import catalogue
from fleetshell_tools.core.errors import BadArgument, Refused
from fleetshell_tools.core.mcps import MCP_ID
from fleetshell_tools.core.types import Cancellation

# npm: https://semver.org, section 2 and 9; Python: https://packaging.python.org/specifications/version-specifiers
_NPM_NAME = r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*"
_NPM_VERSION = r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){2}(?:-[0-9A-Za-z.-]+)?"
_PYPI_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_PYPI_VERSION = r"[0-9]+(?:\.[0-9]+)*(?:(?:a|b|rc|\.post|\.dev)[0-9]+)*"
_ELSEWHERE = re.compile(r"(?:[a-z+]+:|[./~\\]).*|.*(?:://|\.git$|\.tgz$|\.whl$|\s).*", re.IGNORECASE | re.DOTALL)
_LONGEST_ID = 31


@dataclass(frozen=True)
class Package:
    """A package of a registry (`npm` or `pypi`), by its exact version."""

    registry: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}{'@' if self.registry == 'npm' else '=='}{self.version}"


@dataclass(frozen=True)
class Resolved:
    """A package with all it needs, looked up and not yet installed.

    `lock` is a package-lock.json, or requirements with hashes; `scripts` are the packages that have install scripts, which are
    never run; `dependencies` counts the packages besides itself.
    """

    lock: str
    integrity: str
    dependencies: int
    scripts: tuple[str, ...]
    program: str


class Installer(Protocol):
    """Runs the package managers; what it installs has run no code of a package."""

    def problem(self, registry: str) -> str:
        """Why packages of a registry can't be installed on this machine, as a sentence; "" where they can."""

    def version(self, programs: Iterable[str]) -> str | None:
        """The version that the first of these programs tells, "" where it tells none; None where there is none of them."""

    def resolve(self, package: Package, cancelled: Cancellation) -> Resolved:
        """Look up a package and everything it needs.

        Raises:
            NotFound: There is no such package, or no such version.
            FleetShellError: No network, no package manager.
        """

    def install(self, package: Package, lock: str, program: str, folder: Path, cancelled: Cancellation) -> Path:
        """Install what a lock names, and nothing else, into a new folder, without running any of it.

        Returns:
            The absolute path of the program that starts the server.

        Raises:
            FleetShellError: It can't be; what there is of the folder is removed.
        """


def parse(asked: str) -> Package:
    """The package that a text names by its exact version: `name@1.2.3` (npm) or `name==1.2.3` (Python).

    Raises:
        BadArgument: A tag, a range, a path, an address, or no version; says what to write.
    """
    text = asked.strip()
    shown = f'"{text[:100]}"'
    npm = re.fullmatch(rf"({_NPM_NAME})@({_NPM_VERSION})", text)
    if npm:
        return Package("npm", npm[1], npm[2])
    pypi = re.fullmatch(rf"({_PYPI_NAME})==({_PYPI_VERSION})", text)
    if pypi:
        return Package("pypi", re.sub(r"[-_.]+", "-", pypi[1]).lower(), pypi[2])
    near = catalogue.near(text)
    if _ELSEWHERE.fullmatch(text):
        raise BadArgument(
            f"{shown} is a path, an address or a repository, which can't be installed. Give a package by its exact version: "
            "name@1.2.3 (npm) or name==1.2.3 (Python)."
        )
    versioned = re.fullmatch(rf"({_NPM_NAME})@(.*)|({_PYPI_NAME})\s*([<>=!~].*)", text, re.DOTALL)
    if versioned:
        raise BadArgument(
            f"{shown} does not name an exact version: tags and ranges are refused, since they mean another package tomorrow."
            f"{near} Write name@1.2.3 (npm) or name==1.2.3 (Python)."
        )
    if re.fullmatch(f"{_NPM_NAME}|{_PYPI_NAME}", text):
        raise BadArgument(
            f"{shown} is not in the marketplace.{near} browse_mcp_marketplace shows what is. Any other package is given by its exact "
            "version, name@1.2.3 (npm) or name==1.2.3 (Python), and the operator has to accept it."
        )
    raise BadArgument(f"{shown} is no package's name.{near} browse_mcp_marketplace shows what there is.")


def id_for(package: Package) -> str:
    """An id for a package's server: its name without scope and the words that many of them share; "" where none is left."""
    name = package.name.rpartition("/")[2].lower()
    short = re.sub(r"^(?:mcp-server-|server-|mcp-)|(?:-mcp-server|-mcp|-server)$", "", name) or name
    found = re.sub(r"_{2,}", "_", re.sub(r"[^a-z0-9_-]", "-", short)).strip("-_")[:_LONGEST_ID]
    return found if re.fullmatch(MCP_ID, found) else ""


def refuse_home(values: Iterable[str], home: Path) -> None:
    """Refuse arguments and values that let a server reach FleetShell's home, where the keys and the TOTP secret lie.

    Raises:
        Refused: One of them names the home, a folder above it, or something in it.
        BadArgument: One of them is a relative path: from where, nobody can say.
    """
    own = Path(os.path.realpath(home))
    for value in values:
        for part in [value, *re.split(r"[=:,;]", value)]:
            text = re.sub(r"^file:(?://(?:localhost)?)?", "", part.strip())
            if re.fullmatch(r"\.{1,2}(?:/.*)?", text, re.DOTALL):
                raise BadArgument(f'"{part[:100]}" is a relative path; write it in full, from /.')
            if not text.startswith(("/", "~")):
                continue
            path = Path(os.path.realpath(os.path.expanduser(text)))
            if own.is_relative_to(path) or path.is_relative_to(own):
                raise Refused(
                    f'"{part[:100]}" holds FleetShell\'s home {own}, where its keys and the TOTP secret lie; no external MCP server '
                    "may reach it. Name a folder that does not hold it."
                )
