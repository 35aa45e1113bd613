"""The marketplace's catalogue: reviewed servers as data, each a `server.json` document with our own `_meta`.

Format of the documents: server.json, schema 2025-12-11, of the Model Context Protocol's registry. What a review adds stands
under `_meta.fleetshell`; what `packages` and `remotes` say there is read as the schema defines it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from fleetshell_tools.core import mcp_pins
from fleetshell_tools.core.errors import NotFound
from fleetshell_tools.core.words import nearest

BYTES_PER_TOKEN = 4
"""What a tool's definition costs a model, roughly."""


@dataclass(frozen=True)
class Variable:
    """An environment variable (or a value of a header) that a server reads."""

    name: str
    description: str
    required: bool
    secret: bool
    default: str | None


@dataclass(frozen=True)
class Need:
    """What must be on the machine: a program under one of these names, a Python, or a platform.

    `version` is the least that will do; a `soft` one is only missed by a call, not at the start.
    """

    name: str
    programs: tuple[str, ...] = ()
    version: str = ""
    platforms: tuple[str, ...] = ()
    soft: bool = False


@dataclass(frozen=True)
class Entry:
    """One reviewed server.

    `package_name` is the word that people know it by; `package` is what is really installed, empty for a remote server.
    `arguments` are always given; `asks` is what has to come after them, or empty. `tools` and `size` (bytes of their definitions)
    are None where they are not known. `why` says why `package` is another than `package_name`.
    """

    id: str
    package_name: str
    name: str
    description: str
    category: str
    tags: tuple[str, ...]
    registry: str
    package: str
    version: str
    integrity: tuple[str, ...]
    program: str
    arguments: tuple[str, ...]
    asks: str
    variables: tuple[Variable, ...]
    url: str
    headers: Mapping[str, str]
    needs: tuple[Need, ...]
    why: str
    note: str
    smoke: tuple[str, Mapping[str, Any]] | None
    tools: int | None
    size: int | None
    tools_sha256: str
    tried: str

    @property
    def replaced_by(self) -> str | None:
        """What is installed in place of the package that was asked for."""
        if not self.why:
            return None
        return self.package or self.url

    @property
    def tokens(self) -> int | None:
        return None if self.size is None else round(self.size / BYTES_PER_TOKEN)

    @property
    def required(self) -> tuple[Variable, ...]:
        return tuple(variable for variable in self.variables if variable.required)

    def lock(self) -> str:
        """What is installed with it, to the last package: a package-lock.json, or requirements with hashes."""
        if self.registry == "npm":
            return _data(f"locks/{self.id}.json")
        hashes = json.loads(_data("locks/python.json"))
        lines = []
        for line in _data(f"locks/{self.id}.txt").splitlines():
            known = hashes[line.partition(";")[0].strip()]
            lines.append(" ".join([line, *(f"--hash=sha256:{digest}" for digest in known)]))
        return "\n".join(lines) + "\n"


def tools_digest(definitions: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over the definitions of all tools of a server, whatever their order, in hexadecimal."""
    lines = sorted(f"{mcp_pins.digest(definition)}\n" for definition in definitions)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """Every entry, in the order in which they are shown."""
    return tuple(parse(document) for document in json.loads(_data("catalogue.json")))


def find(name: str) -> Entry | None:
    """The entry for a word: the known package name, the one that is really installed, with its version or without, or the id."""
    wanted = name.strip().lower()
    for entry in entries():
        names = {entry.package_name, entry.package, entry.id, f"{entry.package}@{entry.version}"}
        if entry.registry == "pypi":
            names.add(f"{entry.package}=={entry.version}")
        if wanted and wanted in {known.lower() for known in names}:
            return entry
    return None


def by_id(entry_id: str) -> Entry | None:
    """The entry of an id."""
    return next((entry for entry in entries() if entry.id == entry_id), None)


def near(name: str) -> str:
    """` Did you mean "…"?` for a name that is nearly one of the catalogue's, or nothing."""
    words: dict[str, str] = {}
    for entry in entries():
        for word in (entry.id, entry.package, entry.package_name, entry.package_name.rpartition("/")[2]):
            words.setdefault(word.lower(), entry.package_name)
    asked = re.sub(r"(?<=.)@[^/@]*$|==.*$", "", name.strip().lower())
    found = nearest(asked, words) or nearest(asked.rpartition("/")[2], words)
    match = re.search('"(.*)"', found)
    return f' Did you mean "{words[match[1]]}"?' if match else ""


def search(query: str = "", category: str = "") -> list[Entry]:
    """Entries in which every word of the query stands, of one category.

    Raises:
        NotFound: There is no such category.
    """
    categories = {entry.category.lower(): entry.category for entry in entries()}
    if category and category.lower() not in categories:
        known = ", ".join(dict.fromkeys(categories.values()))
        raise NotFound(
            f'There is no category "{category[:80]}".{nearest(category.title(), categories.values())} Categories: {known}.'
        )
    words = query.lower().split()
    return [
        entry
        for entry in entries()
        if (not category or entry.category.lower() == category.lower()) and all(word in _text(entry) for word in words)
    ]


def _text(entry: Entry) -> str:
    parts = (entry.id, entry.package_name, entry.package, entry.name, entry.description, entry.category, *entry.tags)
    return "\n".join(parts).lower()


def parse(document: Mapping[str, Any]) -> Entry:
    """Read one document of the catalogue; anything amiss in it is a fault of ours, and raises whatever it raises."""
    meta = document["_meta"]["fleetshell"]
    package: Mapping[str, Any] = next(iter(document.get("packages", ())), {})
    remote: Mapping[str, Any] = next(iter(document.get("remotes", ())), {})
    fixed, asked = _arguments(package.get("packageArguments", ()))
    integrity, smoke = meta.get("integrity", ()), meta.get("smoke")
    headers, variables = _headers(remote.get("headers", ()))
    return Entry(
        id=meta["id"],
        package_name=meta["package_name"],
        name=document["title"],
        description=document["description"],
        category=meta["category"],
        tags=tuple(meta["tags"]),
        registry=package.get("registryType", "remote"),
        package=package.get("identifier", ""),
        version=package.get("version", document["version"]),
        integrity=(integrity,) if isinstance(integrity, str) else tuple(integrity),
        program=meta.get("program", ""),
        arguments=fixed,
        asks=asked,
        variables=variables or tuple(_variable(item["name"], item) for item in package.get("environmentVariables", ())),
        url=remote.get("url", ""),
        headers=headers,
        needs=tuple(_need(item) for item in meta.get("needs", ())),
        why=meta.get("why", ""),
        note=meta.get("note", ""),
        smoke=(smoke["tool"], smoke["arguments"]) if smoke else None,
        tools=meta.get("tools"),
        size=meta.get("bytes"),
        tools_sha256=meta.get("tools_sha256", ""),
        tried=meta["tried"],
    )


def _arguments(items: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, ...], str]:
    """The arguments that are always given, and in words those that somebody has to choose."""
    fixed: list[str] = []
    asked = ""
    for item in items:
        if item.get("isRequired") and "value" not in item:
            asked = f"{item.get('valueHint') or item.get('name')}: {item['description']}"
        else:
            fixed += [word for word in (item.get("name"), item.get("value")) if word]
    return tuple(fixed), asked


def _variable(name: str, item: Mapping[str, Any]) -> Variable:
    return Variable(
        name, item["description"], bool(item.get("isRequired")), bool(item.get("isSecret")), item.get("default")
    )


def _headers(items: Iterable[Mapping[str, Any]]) -> tuple[dict[str, str], tuple[Variable, ...]]:
    """Headers as our own files write them: `{NAME}` of the schema becomes `${env:NAME}`."""
    headers: dict[str, str] = {}
    variables: list[Variable] = []
    for item in items:
        headers[item["name"]] = re.sub(r"\{(\w+)\}", r"${env:\1}", item["value"])
        variables += [_variable(name, described) for name, described in item.get("variables", {}).items()]
    return headers, tuple(variables)


def _need(item: Mapping[str, Any]) -> Need:
    if "python" in item:
        return Need("Python", version=item["python"])
    platforms = tuple(item.get("platform", ()))
    name = item.get("name") or f"one of the platforms {', '.join(platforms)}"
    return Need(name, tuple(item.get("program", ())), item.get("version", ""), platforms, bool(item.get("soft")))


def _data(name: str) -> str:
    """A file of the package's data; it may lie in a zip archive."""
    return resources.files("fleetshell_tools.core").joinpath("data").joinpath(name).read_text("utf-8")
