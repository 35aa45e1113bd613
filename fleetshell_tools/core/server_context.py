"""All that is known about one server, as `get_server_context` and the resource `fleetshell://servers/{id}` show it."""

from __future__ import annotations

from typing import Any

from fleetshell_tools.core.servers import SECTIONS, Inventory
from fleetshell_tools.core.types import Fleet


def server_context(inventory: Inventory, fleet: Fleet, server_id: str) -> dict[str, Any]:
    """A server's file as an object, with its pinned host keys and the state of its connection.

    Raises:
        NotFound: There is no such server; names a near one.
        ConfigError: Its file is invalid.
    """
    server = inventory.get(server_id)
    state = fleet.connection_state(server)
    return {
        "id": server.id,
        "hostname": server.hostname,
        "tags": list(server.tags),
        "context": {key: value for key, value in server.context.items() if key not in SECTIONS},
        **{name: server.section(name) for name in SECTIONS},
        "ssh": {
            "user": inventory.user(server),
            "port": inventory.port(server),
            "jump": inventory.jump_id(server),
            "options": dict(server.ssh_options),
        },
        "host_keys": fleet.fingerprints(server),
        "connection": {"state": state.state, "shell": state.shell or None, "last_error": state.last_error or None},
    }
