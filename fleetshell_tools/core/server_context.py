"""All that is known about one server, as `get_server_context` and the resource `fleetshell://servers/{id}` show it."""

from __future__ import annotations

import json
import time
from typing import Any

from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.core.notes import NoteStore
from fleetshell_tools.core.scripts import Facts
from fleetshell_tools.core.servers import SECTIONS, Inventory, Server
from fleetshell_tools.core.text import clean_all, one_line
from fleetshell_tools.core.types import Fleet

SHOWN_FACTS = ("host", "user", "os_id", "os_version", "os_name", "kernel", "release", "machine", "tools", "sudo_state")
"""Facts of a host that help to choose commands for it; the others only help our own programs."""


def server_context(inventory: Inventory, fleet: Fleet, notes: NoteStore, server_id: str, budget: int) -> dict[str, Any]:
    """A server's file as an object; what was learned of the host and noted by models stands beside it, never in it.

    Args:
        budget: Bytes of notes to show; the newest are.

    Raises:
        NotFound: There is no such server; names a near one.
        ConfigError: Its file is invalid.
    """
    server = inventory.get(server_id)
    state = fleet.connection_state(server)
    noted, notice = _noted(notes, server.id, budget)
    shown: dict[str, Any] = clean_all(
        {
            "id": server.id,
            "hostname": server.hostname,
            "tags": list(server.tags),
            "context": {key: value for key, value in server.context.items() if key not in SECTIONS},
            **{name: server.section(name) for name in SECTIONS},
            "checks": list(named_checks(server)),
            "ssh": {
                "user": inventory.user(server),
                "port": inventory.port(server),
                "jump": inventory.jump_id(server),
                "options": dict(server.ssh_options),
            },
            "host_keys": fleet.fingerprints(server),
            "connection": {"state": state.state, "shell": state.shell or None, "last_error": state.last_error or None},
            "learned": {"last_seen": last_seen(fleet, server), **_facts(fleet.facts(server))},
            "unverified_notes": noted,
            "notice": notice,
        }
    )
    return shown


def named_checks(server: Server) -> dict[str, str]:
    """The commands under `troubleshooting` by name: plain text, or a map with a `command`."""
    found: dict[str, str] = {}
    for name, value in server.section("troubleshooting").items():
        command = value.get("command") if isinstance(value, dict) else value
        if isinstance(command, str) and command.strip():
            found[str(name)] = command
    return found


def last_seen(fleet: Fleet, server: Server) -> str | None:
    """When a host last answered, in UTC; None where that is not known."""
    seen = fleet.last_seen(server)
    return None if seen is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seen))


def short_os(facts: Facts | None) -> str | None:
    """A host's system in a word or two, such as `debian 12`; None where nothing is known."""
    if facts is None:
        return None
    named = f"{facts['os_id']} {facts['os_version']}".strip() or facts["os_name"] or facts["kernel"]
    return one_line(named, 40) or None


def _facts(facts: Facts | None) -> dict[str, Any]:
    if facts is None:
        return {}
    told: dict[str, Any] = {name: one_line(facts[name]) for name in SHOWN_FACTS if facts[name]}
    return {**told, **{name: facts[name] == "1" for name in ("systemd", "journal")}}


def _noted(notes: NoteStore, server_id: str, budget: int) -> tuple[list[dict[str, str]], str | None]:
    """The newest notes that fit, the oldest of them first, and what to say of the others."""
    try:
        known = notes.of(server_id)
    except ConfigError as error:
        return [], f"The notes can't be shown: {error.message}"
    shown: list[dict[str, str]] = []
    for note in reversed(known):
        entry = note.shown()
        budget -= len(json.dumps(entry, ensure_ascii=False).encode())
        if budget < 0:
            break
        shown.append(entry)
    left_out = len(known) - len(shown)
    return shown[::-1], f"{left_out} older notes are left out; the operator sees all of them." if left_out else None
