"""`bundle`: writes FleetShell, pyotp and the pure-Python part of PyYAML into one file that Python runs."""

from __future__ import annotations

import argparse
import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from fleetshell_tools.cli.command import Arg, command
from fleetshell_tools.core import installation, storage
from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.home import Home

NAME = "fleetshell.pyz"
PACKAGES = {"fleetshell_tools": "fleetshell", "pyotp": "pyotp", "yaml": "PyYAML"}
"""What goes in, with the distribution that has its licence."""

MAIN = """\
# Any Python must be able to read this file, even one that is too old for the rest.
import sys

if sys.version_info < (3, 10):
    sys.exit(
        "FleetShell needs Python 3.10 or newer, and this is Python %d.%d (%s). Start it by a newer one: python3.12 %s"
        % (sys.version_info[0], sys.version_info[1], sys.executable, " ".join(sys.argv))
    )

from fleetshell import main

sys.exit(main())
"""
SHEBANG = b"#!/usr/bin/env python3\n"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The date of every file inside, the first that the format knows, so that one input always makes the same bytes."""

_COMPILE = """
import py_compile, sys
root = sys.argv[1]
for name in sys.argv[2:]:
    py_compile.compile(root + "/" + name, root + "/" + name + "c", name, True,
                       invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
"""


@command(
    "bundle",
    Arg("file", nargs="?", default=NAME, metavar="FILE", help=f"the file to write (default {NAME} in this folder)"),
    example="fleetshell bundle /tmp/fleetshell.pyz",
    own_home=False,
)
def bundle(args: argparse.Namespace, home: Home) -> int:
    """Write FleetShell into one file that runs wherever Python 3.10 or newer and OpenSSH are.

    The same FleetShell and the same Python always write the same bytes. It starts fastest with the Python that wrote it.
    """
    path = Path(args.file).absolute()
    if path.is_dir():
        path /= NAME
    data = build()
    storage.write_atomic(path, data, 0o755)
    print(f"{path} ({len(data) / 1e6:.1f} MB) is FleetShell in one file. Copy it anywhere, and run it:\n")
    print(f"  python3 {path.name} --help\n")
    print("External MCP servers need the package `mcp` on the host besides; everything else is inside.")
    return 0


def build() -> bytes:
    """The single file's content.

    Raises:
        FleetShellError: One of the packages is missing here, or can't be compiled.
    """
    here = installation.archive()
    if here is not None:
        return here.read_bytes()
    files = {"__main__.py": MAIN.encode(), "fleetshell.py": _launcher().read_bytes()}
    for package, distributed in PACKAGES.items():
        files.update(_package(package))
        files.update(_licence(distributed))
    files.update(_compiled({name: data for name, data in files.items() if name.endswith(".py")}))
    return _zipped(files)


def _launcher() -> Path:
    return Path(installation.__file__).parents[2] / "fleetshell.py"


def _package(name: str) -> dict[str, bytes]:
    """Every file of a package but what was compiled for one machine."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise FleetShellError(f"The package {name} is missing, so it can't be bundled. Run `pip install {name}`.")
    folder = Path(spec.origin).parent
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in found
        if path.suffix not in (".pyc", ".so", ".pyi", ".pyx") and not path.name.startswith(".")
    }


def _licence(distributed: str) -> dict[str, bytes]:
    try:
        files = distribution(distributed).files or []
    except PackageNotFoundError:  # a checkout that was never installed has it beside the launcher
        files = []
    found = [Path(str(file.locate())) for file in files if file.name.upper().startswith(("LICENSE", "LICENCE"))]
    if distributed == "fleetshell":
        found.append(_launcher().with_name("LICENSE"))
    there = [path for path in found if path.is_file()]
    return {f"licences/{distributed}.txt": there[-1].read_bytes()} if there else {}


def _compiled(sources: dict[str, bytes]) -> dict[str, bytes]:
    """Byte code of every module for this Python; others see that it is not theirs and take the source.

    Compiled by a process of its own with nothing but that to do: byte code says which strings were shared, and in what order
    sets lay, which in this process depends on what it did before.
    """
    with tempfile.TemporaryDirectory(prefix="fleetshell-bundle-") as folder:
        for name, data in sources.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        names = sorted(sources)
        run = subprocess.run(
            [sys.executable, "-S", "-c", _COMPILE, folder, *names],
            env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if run.returncode != 0:
            raise FleetShellError(
                f"A module can't be compiled: {(run.stderr.strip().splitlines() or ['no message'])[-1]}"
            )
        return {f"{name}c": Path(folder, f"{name}c").read_bytes() for name in names}


def _zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive of files in order, all of one date; byte code lies there as it is, since every start reads it."""
    out = io.BytesIO()
    out.write(SHEBANG)
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _LONG_AGO)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            method = zipfile.ZIP_STORED if name.endswith(".pyc") else zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name], method, 9)
    return out.getvalue()


COMMANDS = (bundle,)
