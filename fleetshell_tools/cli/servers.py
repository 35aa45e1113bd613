"""`list`, `edit`, `remove`, `trust` and `pubkey`: the registered servers, their files and their pinned host keys."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core import storage
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import FleetShellError, UsageError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.servers import Inventory, Server, parse
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.types import Cancellation

CONNECT_SECONDS = 60
"""How long `trust` and `add-server` try to see a host key, jump servers included."""

ID = Arg("id", metavar="ID", help="the server's id")


@command("list", JSON, example="fleetshell list --json")
def list_servers(args: argparse.Namespace, home: Home) -> int:
    """List the registered servers; those whose file is invalid are shown after them, with the reason."""
    inventory = Inventory(home.servers, home.config().defaults)
    servers, problems = inventory.all(), inventory.problems()
    if args.json:
        shown: list[dict[str, Any]] = [
            {"id": server.id, "hostname": server.hostname, "environment": server.environment, "tags": list(server.tags),
             "purpose": server.purpose, "ssh_user": inventory.user(server), "ssh_port": inventory.port(server)}
            for server in servers
        ]  # fmt: skip
        output.print_json(
            [*shown, *({"id": name, "disabled": True, "reason": reason} for name, reason in problems.items())]
        )
        return 0
    if servers:
        rows = [[server.id, server.hostname, server.environment, ", ".join(server.tags)] for server in servers]
        print(output.table(["ID", "Hostname", "Environment", "Tags"], rows))
    elif not problems:
        print("No servers are registered yet. Add one with `fleetshell add-server`.")
    if problems:
        print(f"{chr(10) if servers else ''}Disabled, because the file is invalid (`fleetshell edit ID` opens it):")
        for name, reason in problems.items():
            print(f"  {output.paint('✗', 'red')} {one_line(name)}: {one_line(reason, 500)}")
    return 0


@command("edit", ID, example="fleetshell edit mail-prod-01")
def edit(args: argparse.Namespace, home: Home) -> int:
    """Edit a server's file in $VISUAL or $EDITOR. It is checked before it replaces the old one; a relay that runs sees it at once."""
    config = home.config()
    inventory = Inventory(home.servers, config.defaults)
    path = _file(inventory, args.id)
    from fleetshell_tools.cli import editing

    def check(text: str) -> None:
        parse(text, path.name, args.id)

    def save(text: str) -> None:
        from fleetshell_tools.offline import record

        record(home, config, "server_edited", "edit", server_id=args.id)
        storage.write_atomic(path, text)
        print(f"Saved {path}.")
        _warn_of_jump(inventory, args.id)

    return editing.edit(path, home.path, check, save)


def _warn_of_jump(inventory: Inventory, server_id: str) -> None:
    """A file that is good by itself may still name a jump server that can't be used."""
    try:
        inventory.jump(inventory.get(server_id))
    except FleetShellError as error:
        output.warn(error.message)


@command("remove", ID, Arg("--yes", action="store_true", help="do not ask"), example="fleetshell remove mail-prod-01")
def remove(args: argparse.Namespace, home: Home) -> int:
    """Remove a server: its file, its pinned host key, its notes and what was learned of it. Without a terminal it does not ask."""
    config = home.config()
    inventory = Inventory(home.servers, config.defaults)
    path = _file(inventory, args.id)
    _refuse_if_needed(inventory, config, args.id)
    if (
        output.interactive()
        and not args.yes
        and not output.confirm(f"Remove {args.id}, its pinned host key and its notes?")
    ):
        print("Nothing was removed.")
        return 1
    from fleetshell_tools.offline import forget_server, record

    record(home, config, "server_removed", "remove", server_id=args.id)
    path.unlink(missing_ok=True)
    storage.sync_folder(path.parent)
    forget_server(home, args.id)
    print(f"Removed {args.id}.")
    return 0


def _refuse_if_needed(inventory: Inventory, config: Config, server_id: str) -> None:
    """Refuse to remove the way to other servers."""
    if config.defaults.jump == server_id:
        raise FleetShellError(
            f"{server_id} is `defaults.jump` in config.yaml: other servers are reached through it. Change that first."
        )
    through = [server.id for server in inventory.all() if server.jump == server_id]
    if through:
        raise FleetShellError(
            f"{', '.join(through)} can only be reached through {server_id}. Change `jump` there first (`fleetshell edit {through[0]}`)."
        )


@command(
    "trust",
    ID,
    Arg("--yes", action="store_true", help="pin the new key without asking"),
    example="fleetshell trust mail-prod-01",
)
def trust(args: argparse.Namespace, home: Home) -> int:
    """Show the old and the new host key of a server that was rebuilt, and pin the new one."""
    config = home.config()
    from fleetshell_tools.offline import changed_keys, client_fleet, record

    fleet, inventory, close = client_fleet(home, config)
    try:
        server = inventory.get(args.id)
        offered = changed_keys(fleet, server, time.monotonic() + CONNECT_SECONDS, Cancellation())
        old = fleet.fingerprints(server)
        if not offered:
            print(f"{args.id} still has the host key that is pinned: {', '.join(old)}. Nothing was changed.")
            return 0
        new = [key.fingerprint for key in offered]
        print(f"pinned: {', '.join(old) or 'none'}\nnow:    {', '.join(new)}")
        if not args.yes:
            if not output.interactive():
                raise UsageError(
                    f"Nothing was changed. If that is the key of {args.id}, run `fleetshell trust {args.id} --yes`."
                )
            print("Compare it on the server: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
            if not output.confirm(f"Is that the key of {args.id}?"):
                print("Nothing was changed.")
                return 1
        record(home, config, "host_key_trusted", "trust", server_id=args.id, old=old, new=new)
        fleet.host_keys.pin(args.id, offered)
    finally:
        close()
    print(f"Pinned the new host key of {args.id}.")
    return 0


@command(
    "pubkey",
    Arg(
        "--install", action="store_true", help="put it on servers through your own ssh (its keys, agent and passwords)"
    ),
    Arg("ids", nargs="*", metavar="ID", help="with --install: on which servers"),
    Arg("--all", action="store_true", help="with --install: on every server"),
    Arg("--json", action="store_true", help="with --install: print JSON"),
    example="fleetshell pubkey --install --all",
)
def pubkey(args: argparse.Namespace, home: Home) -> int:
    """Print the relay's public key, the line for ~/.ssh/authorized_keys on each server; with --install, put it there.

    A server that has the key already is left as it is, so the command can be repeated until all have it. Exit code 1 where one fails.
    """
    config = home.config()
    from fleetshell_tools.offline import public_line

    line = public_line(home, config)
    if not args.install:
        if args.ids or args.all or args.json:
            raise UsageError("Servers, --all and --json go with --install: `fleetshell pubkey --install ID`.")
        print(line)
        return 0
    if args.all == bool(args.ids):
        raise UsageError(
            "Say on which servers: `fleetshell pubkey --install ID…`, or `fleetshell pubkey --install --all`."
        )
    inventory = Inventory(home.servers, config.defaults)
    chosen = inventory.all() if args.all else [inventory.get(name) for name in dict.fromkeys(args.ids)]
    return _install(home, config, inventory, chosen, line, args.json)


def _install(home: Home, config: Config, inventory: Inventory, chosen: list[Server], line: str, as_json: bool) -> int:
    """Put the key on servers, say how it went on each as it comes, and record where it was added."""
    from fleetshell_tools.cli import own_ssh
    from fleetshell_tools.offline import record

    done = []
    for put in own_ssh.put(inventory, chosen, line):
        done.append(put)
        if put.state == "added":
            record(home, config, "key_installed", "pubkey", server_id=put.server_id)
        if not as_json:
            mark = {"failed": output.paint("✗", "red"), "skipped": "·"}.get(put.state, output.paint("✓", "green"))
            print(f"{mark} {put.server_id}: {put.sentence}", flush=True)
    failed = sum(put.state == "failed" for put in done)
    if as_json:
        output.print_json(
            [
                {"id": put.server_id, "state": put.state, "reason": put.reason}
                for put in sorted(done, key=lambda put: put.server_id)
            ]
        )
    elif not done:
        print("No servers are registered yet. Add one with `fleetshell add-server`.")
    elif failed:
        print(
            f"{failed} of {len(done)} failed. Run the same command again once that is mended; what is done stays done."
        )
    return FleetShellError.exit_code if failed else 0


def _file(inventory: Inventory, server_id: str) -> Path:
    """The file of a server, whether it is valid or not.

    Raises:
        NotFound: Unknown; names near ids.
    """
    if server_id not in inventory.ids():
        inventory.get(server_id)
    return inventory.path(server_id)


COMMANDS = (list_servers, edit, remove, trust, pubkey)
