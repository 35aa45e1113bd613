"""The marketplace's catalogue: its rows as documented, its data sound, and finding things in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fleetshell_tools.core import catalogue
from fleetshell_tools.core.catalogue import Entry
from fleetshell_tools.core.errors import NotFound
from fleetshell_tools.core.mcps import MCP_ID, parse
from fleetshell_tools.core.packages import Package
from fleetshell_tools.core.packages import parse as parse_package

DOCUMENTED = [
    ("@modelcontextprotocol/server-playwright", "Browser automation and web scraping", "Automation"),
    ("@modelcontextprotocol/server-github", "GitHub API integration", "Development"),
    ("@modelcontextprotocol/server-postgres", "PostgreSQL database operations", "Database"),
    ("@modelcontextprotocol/server-filesystem", "Local filesystem access", "System"),
    ("@modelcontextprotocol/server-slack", "Slack workspace integration", "Communication"),
    ("@modelcontextprotocol/server-memory", "Persistent memory/knowledge base", "AI"),
    ("@modelcontextprotocol/server-puppeteer", "Advanced browser automation", "Automation"),
    ("@modelcontextprotocol/server-brave-search", "Web search via Brave", "Search"),
]
"""The rows that users know, in their order."""

DATA = resources.files("fleetshell_tools.core").joinpath("data")
DOCUMENTS: list[dict[str, Any]] = json.loads(DATA.joinpath("catalogue.json").read_text())

SERVER_JSON = {
    "type": "object",
    "required": ["name", "description", "version"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$", "minLength": 3, "maxLength": 200},
        "description": {"type": "string", "minLength": 1, "maxLength": 100},
        "title": {"type": "string", "minLength": 1, "maxLength": 100},
        "version": {"type": "string", "not": {"pattern": "[\\^~<>=* ]|\\.x"}},
        "repository": {"type": "object", "required": ["url", "source"]},
        "packages": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["registryType", "identifier", "version", "transport"],
                "properties": {
                    "registryType": {"enum": ["npm", "pypi"]},
                    "transport": {"type": "object", "properties": {"type": {"const": "stdio"}}, "required": ["type"]},
                    "packageArguments": {
                        "type": "array",
                        "items": {
                            "oneOf": [
                                {"properties": {"type": {"const": "named"}}, "required": ["type", "name"]},
                                {
                                    "properties": {"type": {"const": "positional"}},
                                    "required": ["type"],
                                    "anyOf": [{"required": ["valueHint"]}, {"required": ["value"]}],
                                },
                            ]
                        },
                    },
                    "environmentVariables": {"type": "array", "items": {"required": ["name", "description"]}},
                },
            },
        },
        "remotes": {
            "type": "array",
            "items": {"required": ["type", "url"], "properties": {"type": {"enum": ["streamable-http", "sse"]}}},
        },
    },
}
"""As much of the registry's schema of 2025-12-11 as the catalogue uses."""


def every(condition: Callable[[Entry], bool] = lambda entry: True) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "entry", [entry for entry in catalogue.entries() if condition(entry)], ids=lambda entry: entry.id
    )


def test_the_documented_rows_stand_first_with_their_words() -> None:
    rows = [(entry.package_name, entry.description, entry.category) for entry in catalogue.entries()]
    assert rows[: len(DOCUMENTED)] == DOCUMENTED
    assert len(rows) >= 16


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["name"])
def test_each_document_has_the_shape_of_the_official_registry(document: dict[str, Any]) -> None:
    Draft202012Validator(SERVER_JSON).validate(document)
    assert bool(document.get("packages")) != bool(document.get("remotes"))
    for package in document.get("packages", ()):
        assert package["version"] == document["version"]


@every()
def test_each_entry_can_become_a_servers_file(entry: Entry) -> None:
    assert re.fullmatch(MCP_ID, entry.id)
    source = f"url: {entry.url}" if entry.url else "command: x"
    assert parse(f"id: {entry.id}\n{source}\n", "file").id == entry.id
    assert bool(entry.why) == (entry.package_name != entry.package)
    assert entry.replaced_by == ((entry.package or entry.url) if entry.why else None)
    assert entry.tried.endswith(".")
    if entry.package:
        assert parse_package(str(Package(entry.registry, entry.package, entry.version))).version == entry.version
        assert entry.program and entry.tools and entry.size and re.fullmatch("[0-9a-f]{64}", entry.tools_sha256)


def test_ids_and_words_are_each_used_once() -> None:
    for words in ([entry.id for entry in catalogue.entries()], [entry.package_name for entry in catalogue.entries()]):
        assert len(set(words)) == len(words)


@every(lambda entry: entry.registry == "npm")
def test_each_npm_lock_pins_every_package_by_its_hash(entry: Entry) -> None:
    packages = json.loads(entry.lock())["packages"]
    assert packages[""]["dependencies"] == {entry.package: entry.version}
    own = packages[f"node_modules/{entry.package}"]
    assert (own["version"], (own["integrity"],)) == (entry.version, entry.integrity)
    assert entry.program in own["bin"]
    for path, package in packages.items():
        if path:
            assert package["integrity"].startswith("sha512-") and "resolved" not in package, path


@every(lambda entry: entry.registry == "pypi")
def test_each_python_lock_pins_every_package_by_its_hashes(entry: Entry) -> None:
    lines = entry.lock().splitlines()
    assert any(line.startswith(f"{entry.package}=={entry.version} --hash=") for line in lines)
    for line in lines:
        assert re.fullmatch(r"[a-z0-9._-]+==[0-9a-z.]+(; [a-z_]+ .*?)?( --hash=sha256:[0-9a-f]{64})+", line), line[:80]
    for digest in entry.integrity:
        assert f"--hash={digest}" in entry.lock()


def test_no_lock_says_from_which_address_anything_comes() -> None:
    assert [item.name for item in DATA.joinpath("locks").iterdir() if "://" in item.read_text()] == []


@pytest.mark.parametrize(
    ("query", "category", "found"),
    [
        ("browser", "", ["playwright", "puppeteer"]),
        ("Browser  AUTOMATION", "", ["playwright", "puppeteer"]),
        ("@playwright/mcp", "", ["playwright"]),
        ("", "Communication", ["slack"]),
        ("", "communication", ["slack"]),
        ("redis", "Database", ["redis"]),
        ("redis", "AI", []),
        ("nothing has this word", "", []),
    ],
)
def test_entries_are_found_by_words_and_category(query: str, category: str, found: list[str]) -> None:
    assert [entry.id for entry in catalogue.search(query, category)] == found


def test_an_unknown_category_names_those_there_are() -> None:
    with pytest.raises(NotFound, match='no category "databse".* Did you mean "Database".* Categories: Automation, '):
        catalogue.search("", "databse")


@pytest.mark.parametrize(
    ("word", "entry"),
    [
        ("@modelcontextprotocol/server-puppeteer", "puppeteer"),
        ("chrome-devtools-mcp", "puppeteer"),
        ("@playwright/mcp@0.0.83", "playwright"),
        (" Playwright ", "playwright"),
        ("mcp-server-time", "time"),
        ("@playwright/mcp@0.0.1", None),
        ("@playwright/mcp@latest", None),
        ("unknown", None),
        ("", None),
    ],
)
def test_an_entry_is_found_by_each_of_its_names_and_by_its_reviewed_version_alone(word: str, entry: str | None) -> None:
    found = catalogue.find(word)
    assert (found.id if found else None) == entry


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("@modelcontextprotocol/server-playwrigth", "@modelcontextprotocol/server-playwright"),
        ("server-githb", "@modelcontextprotocol/server-github"),
        ("playwrght", "@modelcontextprotocol/server-playwright"),
        ("@anthropic/mcp-filesystem", "@modelcontextprotocol/server-filesystem"),
        ("mcp-server-tiem==1.0", "mcp-server-time"),
    ],
)
def test_a_typo_is_told_the_near_name(typo: str, meant: str) -> None:
    assert catalogue.near(typo) == f' Did you mean "{meant}"?'


def test_the_digest_of_tools_is_the_same_in_any_order_and_changes_with_each_word() -> None:
    one = {"name": "a", "description": "x", "inputSchema": {"type": "object"}}
    two = {**one, "name": "b"}
    assert catalogue.tools_digest([one, two]) == catalogue.tools_digest([two, one])
    assert catalogue.tools_digest([one, two]) != catalogue.tools_digest([one, {**two, "description": "y"}])
