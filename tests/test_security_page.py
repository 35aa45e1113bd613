"""docs/security.md keeps its word: the tests that it names exist, and so do its limits, with these defaults."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

from fleetshell_tools.core.config import Config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_every_test_that_the_page_names_is_there() -> None:
    found = rows("Which test tries which threat")
    assert len(found) > 25
    for threat, tests in found:
        path = ""
        names = re.findall(r"`([^`]*)::(\w+)`", tests)
        assert names, threat
        for where, name in names:
            path = where or path
            tree = ast.parse((ROOT / path).read_text())
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (threat, path, name)


def test_the_limits_have_the_defaults_that_the_page_says() -> None:
    found = rows("Limits")
    assert len(found) > 15
    for key, default, _ in found:
        value: object = Config()
        for part in key.strip("`").split("."):
            assert dataclasses.is_dataclass(value) and part in {field.name for field in dataclasses.fields(value)}, key
            value = getattr(value, part)
        assert str(value) == default, key
