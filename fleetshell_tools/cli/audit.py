"""`audit` and `audit verify`: reading the record of what was done, and proving that nobody changed it."""

from __future__ import annotations

import argparse
import json
import threading
from typing import Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core import audit_reading as records
from fleetshell_tools.core.errors import ConfigError, FleetShellError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.text import one_line


@command(
    "audit",
    Arg("-n", type=int, default=20, metavar="N", help="how many records, the newest (default 20)"),
    Arg("-f", "--follow", action="store_true", help="go on printing records as they come, until Ctrl-C"),
    Arg("--server", metavar="ID", help="only this server's"),
    Arg("--failed", action="store_true", help="only what failed or was refused"),
    JSON,
    example="fleetshell audit -n 50 --server web-1",
)
def show(args: argparse.Namespace, home: Home) -> int:
    """Show the newest records of the audit log; `audit verify` checks that none was changed."""
    path = home.file(home.config().relay.audit_log)
    try:
        if args.follow:
            for record in records.follow(
                path, stop=threading.Event(), last=args.n, server=args.server, failed=args.failed
            ):
                _print(record, args.json)
        else:
            for record in records.read(path, last=args.n, server=args.server, failed=args.failed):
                _print(record, args.json)
    except OSError as error:
        raise FleetShellError(f"The audit log {path} can't be read: {error.strerror}.") from None
    return 0


def _print(record: dict[str, Any], as_json: bool) -> None:
    """One record on one line: as it stands in the file with --json."""
    if as_json:
        print(json.dumps(record, ensure_ascii=False), flush=True)
        return
    parts = [str(record.get("timestamp") or ""), str(record.get("event") or "")]
    if record.get("server_id"):
        parts.append(str(record["server_id"]))
    if record.get("exit_code") is not None:
        parts.append(f"exit {record['exit_code']}")
    if record.get("duration_ms") is not None:
        parts.append(f"{record['duration_ms']} ms")
    what = record.get("command") or record.get("reason") or record.get("tool") or ""
    line = f"{'  '.join(parts)}  {one_line(str(what), 160)}"
    print(output.paint(line, "red") if record.get("success") is False else line, flush=True)


@command("audit verify", JSON, example="fleetshell audit verify")
def verify(args: argparse.Namespace, home: Home) -> int:
    """Check the audit log's chain; names the first line that was edited, dropped, reordered or cut off. Exit code 1 then."""
    path = home.file(home.config().relay.audit_log)
    try:
        found = records.verify(path, home.audit_key, home.audit_head)
    except OSError as error:
        raise ConfigError(f"The audit log {path} can't be verified: {error.strerror}.") from None
    if args.json:
        output.print_json({"ok": found.ok, "records": found.records, "first_bad_line": found.first_bad_line, "problem": found.problem,
                           "notes": list(found.notes)})  # fmt: skip
    else:
        print(
            f"The audit log is intact: {found.records} records."
            if found.ok
            else f"The audit log is NOT intact: {found.problem}"
        )
        for note in found.notes:
            print(f"note: {note}")
    return 0 if found.ok else 1


COMMANDS = (show, verify)
