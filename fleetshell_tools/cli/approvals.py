"""`approvals` and `approve`: calls that the guard blocked and that wait for the operator, and letting one of them through."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core import control
from fleetshell_tools.core.errors import UsageError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.text import compress_ids


@command("approvals", JSON, example="fleetshell approvals")
def approvals(args: argparse.Namespace, home: Home) -> int:
    """List the blocked calls that the operator may let through, and those approved but not made yet. Exit code 1 without a relay."""
    answer = ask_relay(home, {"do": "approvals"}, "so no call waits")
    if answer is None:
        return 1
    waiting = answer["approvals"]
    if args.json:
        output.print_json(waiting)
        return 0
    if not waiting:
        print("No call waits for you.")
        return 0
    rows = [[entry["id"], _who(entry), compress_ids(entry["server_ids"]), exact(entry["command"]).replace("\n", "\\n"),
             f"{entry['class']}: {entry['rule']}", f"{entry['age_seconds']} s", "approved" if entry["approved"] else "waits"] for entry in waiting]  # fmt: skip
    print(output.table(["Id", "From", "Servers", "Command", "Rule", "Age", "State"], rows))
    print("\n`fleetshell approve ID` shows all of one call and lets it through.")
    return 0


@command(
    "approve",
    Arg("id", metavar="ID", help="the call, from `approvals` or from the answer that the assistant got"),
    example="fleetshell approve apr_0123456789",
)
def approve(args: argparse.Namespace, home: Home) -> int:
    """Show a blocked call exactly, ask for a TOTP code, and let that one call through, once, within ten minutes."""
    answer = ask_relay(home, {"do": "approval", "id": args.id}, "so no call waits")
    if answer is None:
        return 1
    entry = answer["approval"]
    print(shown(entry))
    if entry["approved"]:
        print(f"\nIt has been approved already, and can be made for {entry['ends_in']} more seconds.")
        return 0
    code = ask_code(home, "let exactly this call through, once")
    control.ask(home.control_socket, {"do": "approve", "id": args.id, "code": code})
    print(f'Approved. The assistant can now repeat this call with approval_id "{args.id}": once, within ten minutes.')
    return 0


def ask_code(home: Home, purpose: str) -> str:
    """Ask for a fresh TOTP code on the terminal; without MFA for a yes.

    Raises:
        UsageError: There is no terminal, or no code and no yes was given.
    """
    if not output.interactive():
        raise UsageError("This needs somebody at a terminal: nothing was changed. Run it in one.")
    if home.config().mfa.enabled:
        code = output.ask(f"\nTOTP code, to {purpose}")
        if not code:
            raise UsageError("No code was given; nothing was changed.")
        return code
    if not output.confirm(f"\nMFA is disabled, so no code is needed. Really {purpose}?"):
        raise UsageError("Nothing was changed.")
    return ""


def ask_relay(home: Home, request: dict[str, Any], so: str) -> dict[str, Any] | None:
    """Ask the running relay; says so where there is none."""
    home.check()
    answer = control.ask(home.control_socket, request)
    if answer is None:
        print(f"No relay is running on {home.path}, {so}.", file=sys.stderr)
    return answer


def exact(text: str) -> str:
    """Text for a decision: whatever a terminal would not show as it is, or could show as something else, is written out."""
    return "".join(ch if ch.isprintable() or ch == "\n" else f"\\u{{{ord(ch):x}}}" for ch in text)


def shown(entry: dict[str, Any]) -> str:
    """Everything about a call that the operator should know."""
    lines = [
        f"Call {entry['id']}, asked for {entry['age_seconds']} s ago",
        f"  from:      {_who(entry)}, with {entry['tool']}",
        f"  servers:   {', '.join(entry['server_ids'])} ({len(entry['server_ids'])})",
        f"  rule:      {entry['class']}: {entry['rule']}",
        f"  would run: {_one_line(' '.join(entry['resolved'])) or 'see the command'}",
    ]
    if entry["shell_session"]:
        typed = ", typed into the program that runs there" if entry["typed"] else ""
        lines.append(f"  session:   {entry['shell_session']}{typed}")
    if entry["working_directory"]:
        lines.append(f"  folder:    {_one_line(entry['working_directory'])}")
    lines += [f"  variable:  {_one_line(name)}={_one_line(value)}" for name, value in entry["environment"].items()]
    if not entry["environment_whole"]:
        lines.append("  variable:  … there is more in the environment than is shown here")
    lines += ["  command:", *_block(entry["command"])]
    if entry["stdin"] is not None:
        whole = len(entry["stdin"].encode()) >= entry["stdin_bytes"]
        note = "" if whole else ", of which only the beginning is shown"
        lines += [f"  standard input ({entry['stdin_bytes']} bytes{note}):", *_block(entry["stdin"])]
    return "\n".join(lines)


def _block(text: str) -> list[str]:
    return [f"    | {line}" for line in exact(text).split("\n")]


def _one_line(text: str) -> str:
    return exact(text).replace("\n", "\\n")


def _who(entry: dict[str, Any]) -> str:
    client = f", {_one_line(entry['client'])[:60]}" if entry["client"] else ""
    return f"{entry['name']} (key {entry['principal']}{client})"


COMMANDS = (approvals, approve)
