"""What a user can meet is documented: commands, tools, configuration keys, exit codes; and pages from the code are current."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import docs
from support.relay import ROOT

from fleetshell_tools.catalog import TOOLS
from fleetshell_tools.cli import COMMANDS, overview
from fleetshell_tools.core import errors
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.mcps import Mcp
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.tool import Tool

README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_documented(name: str) -> None:
    written = [README, *PAGES.values()]
    assert any(re.search(rf"(?:`|fleetshell |, `){re.escape(name)}\b", text) for text in written)


def test_every_exit_code_is_documented_in_the_readme_and_in_the_help() -> None:
    codes = {
        0,
        *(kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")),
    }
    (line,) = re.findall(r"Exit codes: ([^.]*)\.", README)
    assert {int(code) for code in re.findall(r"\d+", line)} == codes
    assert line.replace(", ", "; ") in (overview().epilog or "")


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: str(tool.name))
def test_every_tool_has_its_section_its_row_and_an_example_that_it_takes(tool: Tool) -> None:
    assert f"\n## {tool.name}\n" in PAGES["tools.md"]
    assert f"`{tool.name}`" in README
    tool.arguments(docs.examples()[tool.name])


@pytest.mark.parametrize("kind", [Config, Server, Mcp])
def test_every_key_says_what_it_means_and_stands_in_the_reference(kind: type) -> None:
    for name, _, field in docs.keys(kind):
        assert field.metadata["doc"].endswith((".", "…")), f"{name} has no sentence for the documentation"
        assert f"| `{name}` |" in PAGES["configuration.md"]


@pytest.mark.parametrize(("name", "make"), list(docs.PAGES.items()))
def test_a_page_from_the_code_is_current(name: str, make: Callable[[], str]) -> None:
    assert (ROOT / name).read_text() == make(), f"{name} is out of date: run `make docs`"


def test_every_document_is_in_the_readmes_list() -> None:
    assert [name for name in PAGES if f"(docs/{name})" not in README] == []


@pytest.mark.parametrize("quoted", re.findall(r'"([^"\n]{8,})"', PAGES["troubleshooting.md"]))
def test_a_sentence_that_troubleshooting_quotes_is_one_that_fleetshell_says(quoted: str) -> None:
    for part in quoted.split("…"):
        assert part.strip(" ,") in _sentences(), f'no source has "{part}"'


def test_headings_that_pages_link_to_exist() -> None:
    headings = {"README.md": _anchors(README), **{name: _anchors(text) for name, text in PAGES.items()}}
    for name, text in {"README.md": README, **PAGES}.items():
        for page, anchor in re.findall(r"\]\(((?:docs/)?[a-z-]*\.md)?#([^)]+)\)", text):
            assert anchor in headings[Path(page).name or name], f"{name} links to {page}#{anchor}"


def test_the_check_of_the_pages_says_which_are_out_of_date() -> None:
    command = [sys.executable, str(ROOT / "tests" / "support" / "docs.py"), "--check"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout.strip()) == (0, "")


def _anchors(text: str) -> set[str]:
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@functools.cache
def _sentences() -> str:
    """All texts of the sources, adjacent literals joined as Python joins them."""
    found = []
    for path in sorted((ROOT / "fleetshell_tools").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
                found.append(node.value if isinstance(node.value, str) else node.value.decode(errors="replace"))
    return "\n".join(found)
