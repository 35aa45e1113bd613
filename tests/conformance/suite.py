"""Runs an official conformance suite against a server and reads the results that it leaves."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import programs

_FOLDER = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z")
LIMIT = 110
"""Seconds that a whole suite may take."""


@dataclass(frozen=True)
class Report:
    """What a suite found: the checks of each scenario, as the suite wrote them."""

    returncode: int
    output: str
    scenarios: dict[str, list[dict[str, Any]]]

    def faults(self, required: set[str]) -> list[str]:
        """A line for every required scenario that did not run and every check of one that failed."""
        found = [f"{name}: it did not run" for name in sorted(required - self.scenarios.keys())]
        for name in sorted(required & self.scenarios.keys()):
            checks = self.scenarios[name]
            found += [_line(name, check) for check in checks if check["status"] in ("FAILURE", "WARNING")]
            if not any(check["status"] == "SUCCESS" for check in checks):
                found.append(f"{name}: no check passed")
        return found


def _line(scenario: str, check: dict[str, Any]) -> str:
    why = check.get("errorMessage") or check.get("description") or ""
    details = json.dumps(check.get("details", {}))
    return f"{scenario} / {check['id']} ({check['status'].lower()}): {why} {details[:800]}"


def run(suite: Path, url: str, folder: Path, *arguments: str, key: str = "", certificate: Path | None = None) -> Report:
    """Run a suite against a server.

    Args:
        suite: The program, one of `programs`.
        folder: An empty folder for its results.
        key: The API key that it is to send with every request.
        certificate: The server's, where it speaks TLS.
    """
    command = [programs.node()]
    if key:
        command += ["--import", str(programs.HERE / "bearer.mjs")]
    command += [str(suite), "server", "--url", url, "-o", str(folder), *arguments]
    environment = programs.environment(folder, {"MCP_TEST_KEY": key})
    if certificate:
        environment["NODE_EXTRA_CA_CERTS"] = str(certificate)
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT
    )  # fmt: skip
    scenarios = {}
    for file in folder.glob("server-*/checks.json"):
        found = _FOLDER.fullmatch(file.parent.name)
        assert found, f"the suite named a folder in another way than this reads: {file.parent.name}"
        scenarios[found[1]] = json.loads(file.read_text())
    return Report(done.returncode, done.stdout.decode(errors="replace"), scenarios)


def required_by(revision: str) -> set[str]:
    """The scenarios for servers that a revision of the protocol requires, and the later ones but for those of extensions."""
    file = programs.SUITE.parents[1] / "requirements" / f"{revision}.yaml"
    content = yaml.safe_load(file.read_text())
    later = [
        entry["scenario"]
        for entry in content["not_scored"]
        if entry["leg"] == "server" and entry["reason"] != "extension"
    ]
    return {*content["server"], *later}
