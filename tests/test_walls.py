"""The walls of the house: who may import whom, read from the sources with `ast`, so that there is one road to a server.

A wall that falls is a fault of design, not of style: a family that imports `subprocess` passes the guard and the audit log.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "fleetshell_tools"

MAY_IMPORT = {
    "front": {"cli"},
    "map": set[str](),
    "core": {"core"},
    "fleet": {"core", "fleet"},
    "relay": {"core", "relay"},
    "family": {"core"},
    "catalog": {"core", "family"},
    "offline": {"core", "fleet", "relay"},
    "app": {"core", "fleet", "relay", "family", "catalog", "offline"},
    "daemon": {"core", "fleet", "relay", "app", "offline"},
    "cli": {"core", "cli"},
}
"""Room of the importing module to the rooms it may import; "front" is fleetshell.py, "map" the package's own docstring."""

LAZILY = {("cli", "app"), ("cli", "daemon"), ("cli", "offline")}
"""What may be imported besides, but only inside a function: starting must not cost what is not used."""

MCP_MODULES = {
    "fleetshell_tools/cli/demo_client.py",
    "fleetshell_tools/relay/upstream.py",
}
SDK = {"mcp", "httpx2"}
"""The official MCP package, and the HTTP client that it is handed."""

RUNTIME = sys.stdlib_module_names | SDK | {"pyotp", "yaml", "fleetshell", PACKAGE}

ROADS_PAST_THE_GUARD = (
    *("asyncio", "ctypes", "ftplib", "http", "multiprocessing", "pexpect", "pty", "smtplib", "socket", "socketserver"),
    *("ssl", "subprocess", "telnetlib", "urllib.request", "xmlrpc"),
)
"""Standard modules that start a program or open a connection: a family has `ctx` for that."""

OS_CALLS = ("system", "popen", "exec", "spawn", "posix_spawn", "fork", "startfile")
"""Beginnings of the names in `os` that start a program."""


@dataclass(frozen=True)
class Import:
    """One module named by one import statement or by a call of `import_module`."""

    name: str
    line: int
    lazy: bool


@dataclass(frozen=True)
class Module:
    """A source file, with its path inside the tree."""

    path: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        return self.name if self.path.endswith("/__init__.py") else self.name.rpartition(".")[0]

    def imports(self) -> Iterator[Import]:
        return self._imports_in(self.tree, lazy=False)

    def _imports_in(self, node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            for name in self._names(child):
                yield Import(name, getattr(child, "lineno", 0), lazy)
            not_run = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from self._imports_in(child, lazy or not_run or function)

    def _names(self, node: ast.AST) -> list[str]:
        """What this node imports; of `from package import a, b` each name, since it may be a module."""
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            parent = self.package.rsplit(".", node.level - 1)[0] if node.level else ""
            start = ".".join(filter(None, [parent, node.module]))
            return [f"{start}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            return [_named_by(target) for target in node.args[:1]]
        return []


def _named_by(target: ast.expr) -> str:
    """The module that `import_module` is asked for; a computed name could be anything: no room may import that.

    An f-string that begins with a whole room's name, `f"fleetshell_tools.cli.{…}"`, stays in that room.
    """
    if isinstance(target, ast.Constant):
        return str(target.value)
    if isinstance(target, ast.JoinedStr) and isinstance(target.values[0], ast.Constant):
        prefix = str(target.values[0].value)
        if prefix.count(".") == 2 and prefix.endswith("."):
            return prefix + "computed"
    return "(computed)"


def room_of(name: str) -> str:
    """The room of a module of this package, by its dotted name (or the dotted name of something in it)."""
    parts = name.split(".")
    if parts[0] == "fleetshell":
        return "front"
    if len(parts) == 1:
        return "map"
    return parts[1] if parts[1] in MAY_IMPORT else "family"


def modules(root: Path) -> list[Module]:
    """Every module of the product; those that do not exist yet are no fault."""
    files = [*sorted((root / PACKAGE).rglob("*.py")), *root.glob("fleetshell.py")]
    return [Module(file.relative_to(root).as_posix(), ast.parse(file.read_text())) for file in files]


def fallen_walls(module: Module) -> Iterator[str]:
    """Imports of another room that may not be imported from here."""
    room = room_of(module.name)
    if room == "family" and module.path.count("/") > 1:
        yield f"{module.path}: a folder that is none of the rooms"
    for found in module.imports():
        if found.name.split(".")[0] not in ("fleetshell", PACKAGE):
            continue
        target = room_of(found.name)
        itself = target == "family" and (found.name + ".").startswith(module.name + ".")
        version = room == "front" and found.name.startswith(f"{PACKAGE}.core.version")
        lazily = found.lazy and (room, target) in LAZILY
        if not (target in MAY_IMPORT[room] or itself or version or lazily):
            yield f"{module.path}:{found.line}: {room} imports {found.name}"


def foreign_imports(module: Module) -> Iterator[str]:
    """Imports of what is neither the standard library nor one of the three dependencies, and of `mcp` out of its place."""
    for found in module.imports():
        top = found.name.split(".")[0]
        if top not in RUNTIME:
            yield f"{module.path}:{found.line}: imports {found.name}"
        if top in SDK and module.path not in MCP_MODULES:
            yield f"{module.path}:{found.line}: imports {top}"
        elif top in SDK and not found.lazy:
            yield f"{module.path}:{found.line}: imports {top} when it is loaded, not inside a function"


def roads_past_the_guard(module: Module) -> Iterator[str]:
    """What starts a program or opens a connection in a family."""
    if room_of(module.name) != "family":
        return
    for found in module.imports():
        name = found.name + "."
        if any(name.startswith(road + ".") for road in ROADS_PAST_THE_GUARD):
            yield f"{module.path}:{found.line}: a family imports {found.name}"
        if any(name.startswith(f"os.{call}") for call in OS_CALLS):
            yield f"{module.path}:{found.line}: a family imports {found.name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith(OS_CALLS) and ast.unparse(node.value) == "os":
            yield f"{module.path}:{node.lineno}: a family uses os.{node.attr}"


def poor_docstrings(module: Module) -> Iterator[str]:
    """Modules whose first line does not say in a sentence what they are for."""
    first = (ast.get_docstring(module.tree) or "").partition("\n")[0]
    if not first:
        yield f"{module.path}: no docstring"
    elif not first.endswith((".", ":")) or len(first) > 120:
        yield f"{module.path}: the docstring's first line is no sentence of at most 120 characters: {first}"


Rule = Callable[[Module], Iterator[str]]
RULES: list[Rule] = [fallen_walls, foreign_imports, roads_past_the_guard, poor_docstrings]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_has_no(rule: Rule) -> None:
    found = modules(ROOT)
    assert found
    faults = [fault for module in found for fault in rule(module)]
    assert not faults, "\n".join(faults)


# The rest shows that each rule can fail, on a tree with one fault.

SOUND = {
    "fleetshell.py": "from fleetshell_tools.core.version import __version__\nfrom fleetshell_tools.cli import main",
    "fleetshell_tools/__init__.py": "",
    "fleetshell_tools/core/store.py": "import yaml, os.path\nfrom . import types\nfrom fleetshell_tools.core import types",
    "fleetshell_tools/fleet/guard/__init__.py": "import subprocess\nfrom ..mux import Mux\nfrom .rules import rules",
    "fleetshell_tools/relay/httpd.py": "import socket\nfrom fleetshell_tools.relay import auth",
    "fleetshell_tools/files.py": "import os\nfrom fleetshell_tools.core.tool import tool\nsize = os.stat, os.path",
    "fleetshell_tools/catalog.py": "from fleetshell_tools import files\nfrom fleetshell_tools.core.tool import Tool",
    "fleetshell_tools/app.py": "from fleetshell_tools import catalog, files\nfrom fleetshell_tools.relay import httpd",
    "fleetshell_tools/cli/serve.py": "from fleetshell_tools.core import x\ndef serve():\n    from fleetshell_tools.app import App",
    "fleetshell_tools/cli/demo_client.py": "def drive():\n    import httpx2\n    from mcp.client import Client",
}

FAULTS = [
    ("fleetshell.py", "from fleetshell_tools.core.config import Config"),
    ("fleetshell.py", "def main():\n    from fleetshell_tools.app import App"),
    ("fleetshell_tools/__init__.py", "from fleetshell_tools.core import types"),
    ("fleetshell_tools/core/store.py", "from fleetshell_tools.fleet import mux"),
    ("fleetshell_tools/core/store.py", "def later():\n    from ..relay import auth"),
    ("fleetshell_tools/core/store.py", "from fleetshell_tools import files"),
    ("fleetshell_tools/core/store.py", "import fleetshell_tools"),
    ("fleetshell_tools/core/store.py", "import importlib\nimportlib.import_module('fleetshell_tools.app')"),
    ("fleetshell_tools/core/store.py", "import importlib\nimportlib.import_module('fleetshell_' + 'tools.app')"),
    ("fleetshell_tools/core/store.py", "import importlib\nimportlib.import_module(f'fleetshell_tools.relay.{x}')"),
    ("fleetshell_tools/core/store.py", "import importlib\nimportlib.import_module(f'fleetshell_tools.{x}')"),
    (
        "fleetshell_tools/core/store.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..fleet import mux",
    ),
    ("fleetshell_tools/fleet/guard/rules.py", "from fleetshell_tools.relay.auth import Auth"),
    ("fleetshell_tools/fleet/mux.py", "from ..relay import auth"),
    ("fleetshell_tools/relay/httpd.py", "from fleetshell_tools.fleet import mux"),
    ("fleetshell_tools/relay/httpd.py", "from fleetshell_tools.app import App"),
    ("fleetshell_tools/relay/httpd.py", "import fleetshell"),
    ("fleetshell_tools/files.py", "from fleetshell_tools import logs"),
    ("fleetshell_tools/files.py", "from fleetshell_tools.fleet.mux import Mux"),
    ("fleetshell_tools/files.py", "from fleetshell_tools.catalog import CATALOG"),
    ("fleetshell_tools/files.py", "def read():\n    import subprocess"),
    ("fleetshell_tools/files.py", "from socket import create_connection"),
    ("fleetshell_tools/files.py", "from urllib import request"),
    ("fleetshell_tools/files.py", "import os\nos.system('id')"),
    ("fleetshell_tools/files.py", "from os import execvp"),
    ("fleetshell_tools/catalog.py", "from fleetshell_tools.fleet import mux"),
    ("fleetshell_tools/app.py", "def late():\n    from fleetshell_tools.cli import serve"),
    ("fleetshell_tools/cli/serve.py", "from fleetshell_tools.app import App"),
    ("fleetshell_tools/cli/serve.py", "try:\n    from fleetshell_tools import app\nfinally:\n    pass"),
    ("fleetshell_tools/cli/serve.py", "def keys():\n    from fleetshell_tools.fleet import keys"),
    ("fleetshell_tools/attic/old.py", "import os"),
    ("fleetshell_tools/cli/demo_client.py", "import mcp"),
    ("fleetshell_tools/cli/demo_client.py", "import httpx2"),
    ("fleetshell_tools/cli/serve.py", "def serve():\n    import httpx2"),
    ("fleetshell_tools/cli/serve.py", "def serve():\n    import mcp.types"),
    ("fleetshell_tools/fleet/mux.py", "import paramiko"),
    ("fleetshell_tools/cli/serve.py", "def serve():\n    from click import command"),
]

DOCSTRING = '"""What it is for."""\n'


def plant(root: Path, sources: dict[str, str]) -> list[str]:
    for path, source in sources.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(source)
    return [fault for rule in RULES for module in modules(root) for fault in rule(module)]


def test_a_sound_tree_has_no_faults(tmp_path: Path) -> None:
    assert plant(tmp_path, {path: DOCSTRING + source for path, source in SOUND.items()}) == []


@pytest.mark.parametrize(("path", "source"), FAULTS)
def test_a_fallen_wall_is_seen(tmp_path: Path, path: str, source: str) -> None:
    faults = plant(tmp_path, {path: DOCSTRING + source})
    assert len(faults) == 1
    assert faults[0].startswith(f"{path}:")


@pytest.mark.parametrize("start", ["", '"""no sentence"""', f'"""{"long " * 24}."""', '"""\n"""'])
def test_a_module_without_a_sentence_of_its_purpose_is_seen(tmp_path: Path, start: str) -> None:
    (fault,) = plant(tmp_path, {"fleetshell_tools/core/store.py": start})
    assert "docstring" in fault
