"""`audit` and `audit verify`: reading the record of what was done, and proving that nobody changed it."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from typing import Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core import audit_reading as records
from fleetshell_tools.core import audit_verification as verification
from fleetshell_tools.core.audit_reading import Wanted
from fleetshell_tools.core.errors import BadArgument, ConfigError, FleetShellError, UsageError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.log_time import Clock, parse_since
from fleetshell_tools.core.text import one_line


@command(
    "audit",
    Arg("-n", type=int, metavar="N", help="how many records, the newest (default 20; all where --since is given)"),
    Arg("-f", "--follow", action="store_true", help="go on printing records as they come, until Ctrl-C"),
    Arg("--server", metavar="ID", help="only this server's"),
    Arg("--failed", action="store_true", help="only what failed or was refused"),
    Arg("--since", metavar="WHEN", help="only from then on: 90m, 2h, 3d, or 2024-01-15T10:30:00Z"),
    Arg("--principal", metavar="WHO", help="only what this one did: a name, or a key's id"),
    Arg("--event", metavar="EVENT", help="only this event, such as started, blocked or authentication_failed"),
    JSON,
    example="fleetshell audit -n 50 --server web-1",
)
def show(args: argparse.Namespace, home: Home) -> int:
    """Show the newest records of the audit log, rotated files too; `audit verify` checks that none was changed."""
    path = home.file(home.config().relay.audit_log)
    wanted = Wanted(args.server, args.failed, args.principal, args.event, _moment(args.since))
    last = args.n if args.n is not None or args.since else 20
    try:
        if args.follow:
            stop, most = threading.Event(), sys.maxsize if last is None else last
            for record in records.follow(path, stop=stop, last=most, wanted=wanted):
                _print(record, args.json)
        else:
            for record in records.read(path, last=last, wanted=wanted):
                _print(record, args.json)
    except OSError as error:
        raise FleetShellError(f"The audit log {path} can't be read: {error.strerror}.") from None
    return 0


def _moment(since: str | None) -> float | None:
    """When `--since` means, in Unix seconds; a time without a zone is this machine's.

    Raises:
        UsageError: It is no time.
    """
    now = time.time()
    try:
        return parse_since(since).moment(Clock(now, time.localtime(now).tm_gmtoff))
    except BadArgument:
        raise UsageError(
            f"--since is {since!r}; allowed: how long ago, such as 90m, 2h or 3d, or a time such as 2024-01-15T10:30:00Z (without "
            "the Z it is this machine's)."
        ) from None


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
        found = verification.verify(path, home.audit_key, home.audit_head, home.audit_signing_key)
    except OSError as error:
        raise ConfigError(f"The audit log {path} can't be verified: {error.strerror}.") from None
    if args.json:
        output.print_json(
            {
                "ok": found.ok,
                "records": found.records,
                "first_bad_line": found.first_bad_line,
                "file": found.file or None,
                "problem": found.problem,
                "signed_through": found.signed_through,
                "notes": list(found.notes),
            }
        )
        return 0 if found.ok else 1
    signed = f" Record {found.signed_through} and all before it are signed." if found.signed_through else ""
    if found.ok:
        print(f"The audit log is intact: {found.records} records.{signed}")
    else:
        print(f"The audit log is NOT intact: {found.problem}")
    for note in found.notes:
        print(f"note: {note}")
    return 0 if found.ok else 1


COMMANDS = (show, verify)
