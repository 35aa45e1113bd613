"""`guard check`: what the guard says of a command, without running anything."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import Refused, UsageError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.types import Act, Verdict


@command(
    "guard check",
    Arg("text", nargs="?", metavar="COMMAND", help="the command to judge"),
    Arg(
        "--jsonl",
        action="store_true",
        help='read {"command": …} objects, one a line, from stdin and print each with its verdict',
    ),
    JSON,
    example="fleetshell guard check 'rm -rf /'",
)
def check(args: argparse.Namespace, home: Home) -> int:
    """Say whether the guard would let a command run, and why not. Exit code 5 where it would block."""
    from fleetshell_tools.offline import make_guard

    config = home.config() if home.config_file.exists() else Config()
    guard = make_guard(config)
    if args.jsonl == (args.text is not None):
        raise UsageError("Give one COMMAND, or --jsonl with objects on stdin.")
    if args.jsonl:
        for number, line in enumerate(sys.stdin, 1):
            if line.strip():
                item = _item(line, number)
                print(json.dumps({**item, **_shown(guard.judge(_act(item, number)))}, ensure_ascii=False), flush=True)
        return 0
    verdict = guard.judge(Act(args.text))
    if args.json:
        output.print_json({"command": args.text, **_shown(verdict)})
    elif verdict.allowed:
        print("allow")
    else:
        print(f"block: class {verdict.kind}, rule {verdict.rule}\n{verdict.reason}")
    return 0 if verdict.allowed else Refused.exit_code


def _item(line: str, number: int) -> dict[str, Any]:
    try:
        item = json.loads(line)
    except ValueError as error:
        raise UsageError(f"Line {number} of the input is not JSON: {error}.") from None
    if not isinstance(item, dict) or not isinstance(item.get("command"), str):
        raise UsageError(f'Line {number} of the input is not an object with a text "command".')
    return item


def _act(item: dict[str, Any], number: int) -> Act:
    """An act from its JSON form; the keys are those of `execute_command`, and `login_user`."""
    stdin, environment = item.get("stdin"), item.get("environment") or {}
    folder, user = item.get("working_directory"), item.get("login_user")
    texts = all(value is None or isinstance(value, str) for value in (stdin, folder, user))
    if (
        not texts
        or not isinstance(environment, dict)
        or not all(isinstance(value, str) for value in environment.values())
    ):
        raise UsageError(
            f"Line {number} of the input: stdin, working_directory and login_user are texts, environment an object of texts."
        )
    return Act(item["command"], stdin.encode() if stdin is not None else None, environment, folder, user)


def _shown(verdict: Verdict) -> dict[str, Any]:
    return {
        "verdict": "allow" if verdict.allowed else "block",
        "class": verdict.kind or None,
        "rule": verdict.rule or None,
        "reason": verdict.reason or None,
        "argv": list(verdict.argv),
        "approvable": verdict.approvable,
    }


COMMANDS = (check,)
