"""`session list` and `session close`: the shell sessions of the running relay."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core import control
from fleetshell_tools.core.errors import NotFound
from fleetshell_tools.core.home import Home


@command("session list", JSON, example="fleetshell session list")
def list_sessions(args: argparse.Namespace, home: Home) -> int:
    """List the live shell sessions of the running relay. Exit code 1 where none is running."""
    answer = _ask(home, {"do": "sessions"})
    if answer is None:
        return 1
    sessions = answer["sessions"]
    if args.json:
        output.print_json(sessions)
        return 0
    if not sessions:
        print("There are no shell sessions.")
        return 0
    rows = [[session["session_id"], session["server_id"], session["owner"], session["created_at"], f"{session['idle_seconds']} s",
             f"{session['expires_in']} s", "yes" if session["running"] else "no", session["cwd"]] for session in sessions]  # fmt: skip
    print(output.table(["Session", "Server", "Key", "Created", "Idle", "Ends in", "Running", "Folder"], rows))
    return 0


@command(
    "session close",
    Arg("id", metavar="ID", help="the session, from `session list`"),
    example="fleetshell session close sess_0123456789ab",
)
def close_session(args: argparse.Namespace, home: Home) -> int:
    """Close a shell session and end everything that runs in it."""
    answer = _ask(home, {"do": "close_session", "id": args.id})
    if answer is None:
        return 1
    if not answer["closed"]:
        raise NotFound(f'There is no shell session "{args.id}". `fleetshell session list` shows the live ones.')
    print(f"Closed the session {args.id}.")
    return 0


def _ask(home: Home, request: dict[str, Any]) -> dict[str, Any] | None:
    """Ask the running relay; says so where there is none."""
    home.check()
    answer = control.ask(home.control_socket, request)
    if answer is None:
        print(f"No relay is running on {home.path}, so there are no shell sessions.", file=sys.stderr)
    return answer


COMMANDS = (list_sessions, close_session)
