"""`lock` and `unlock`: the emergency stop, with or without a running relay."""

from __future__ import annotations

import argparse

from fleetshell_tools.cli import output
from fleetshell_tools.cli.approvals import ask_code
from fleetshell_tools.cli.auth import writing
from fleetshell_tools.cli.command import command
from fleetshell_tools.core import control
from fleetshell_tools.core.emergency import Emergency
from fleetshell_tools.core.errors import AuthenticationFailed, FleetShellError
from fleetshell_tools.core.home import Home


@command("lock", example="fleetshell lock")
def lock(args: argparse.Namespace, home: Home) -> int:
    """Emergency stop: end grants, shell sessions, jobs and running calls, and refuse every tool until `fleetshell unlock`."""
    home.check()
    from fleetshell_tools.offline import cli_caller, record

    # First of all: neither a broken configuration nor a full audit log may keep the operator from stopping everything.
    with writing(home):
        Emergency(home.emergency).engage(cli_caller("lock").principal.key_id)
    print("Locked: no tool works, also after a restart, until `fleetshell unlock`.")
    try:
        record(home, home.config(), "locked", "lock")
    except FleetShellError as error:
        output.warn(f"this could not be recorded: {error.message}")
    ended = control.ask(home.control_socket, {"do": "heed_lock"})
    if ended is None:
        print("No relay is running; the lock holds when one starts.")
    else:
        print(ended_text(ended))
    return 0


@command("unlock", example="fleetshell unlock")
def unlock(args: argparse.Namespace, home: Home) -> int:
    """Let tools work again after `lock`; asks for a TOTP code. Clients must authenticate again."""
    config = home.config()
    stop = Emergency(home.emergency)
    if not stop.engaged:
        print("The relay is not locked.")
        return 0
    code = ask_code(home, f"unlock the relay, which is locked{stop.since()}")
    from fleetshell_tools.offline import confirm, record

    with writing(home):
        try:
            confirm(home, config, code)
        except AuthenticationFailed as error:
            record(home, config, "unlock_failed", "unlock", success=False, reason=error.message)
            raise
        record(home, config, "unlocked", "unlock")
        stop.lift()
    control.ask(home.control_socket, {"do": "heed_lock"})
    print("Unlocked. Every client must authenticate again.")
    return 0


def ended_text(ended: dict[str, int]) -> str:
    """What the relay says that it has ended, in words."""
    names = {"grants": "authentications", "jobs": "jobs", "shell_sessions": "shell sessions"}
    return f"Ended: {', '.join(f'{ended.get(key, 0)} {name}' for key, name in names.items() if key in ended) or 'nothing was running'}."


COMMANDS = (lock, unlock)
