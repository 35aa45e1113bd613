"""`add-server`: registering a server, looking at its host key, and trying the login."""

from __future__ import annotations

import argparse
import os
import pwd
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import Arg, command
from fleetshell_tools.core import servers, storage, yamlfile
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import ConfigError, FleetShellError, TimedOut, Unreachable, UsageError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.servers import Inventory, Server
from fleetshell_tools.core.types import Act, Cancellation

if TYPE_CHECKING:
    from fleetshell_tools.offline import SshFleet

SECONDS = 60
"""How long seeing the host key, and then logging in, may each take."""


@dataclass(frozen=True)
class _Field:
    """One thing to know about a server: its option, its key in the file, and the question for it."""

    option: str
    key: str
    question: str


FIELDS = (
    _Field("id", "id", "Id, a short name of your choice"),
    _Field("hostname", "hostname", "Host name or IP address"),
    _Field("user", "ssh_user", "Login user"),
    _Field("port", "ssh_port", "SSH port"),
    _Field("tags", "tags", "Tags, separated by commas"),
    _Field("env", "environment", "Environment (production, staging, …)"),
    _Field("purpose", "purpose", "Purpose, for the assistant to know"),
)
REQUIRED = ("id", "hostname")
CONTEXT = ("purpose", "environment")
"""What stands under `context` in the file, in this order."""


@command(
    "add-server",
    Arg("--id", metavar="ID", help="the server's id: letters, digits, `.`, `_`, `-`"),
    Arg("--hostname", metavar="HOST", help="host name or IP address"),
    Arg("--user", metavar="NAME", help="login user"),
    Arg("--port", metavar="PORT", help="SSH port"),
    Arg("--tags", metavar="A,B", help="words to select servers by"),
    Arg("--env", metavar="ENV", help="production, staging, …"),
    Arg("--purpose", metavar="TEXT", help="what the server is for"),
    Arg("--jump", metavar="ID", help="the registered server to jump through"),
    Arg("--key", metavar="FILE", help="another private key than the relay's"),
    Arg("--options", metavar="K=V", action="append", default=[], help="an ssh option; may be given several times"),
    Arg(
        "--no-verify",
        action="store_true",
        help="do not contact the server; its host key is then pinned at the first contact",
    ),
    example="fleetshell add-server --id mail-prod-01 --hostname mail.example.com --user root --tags production,mail --env production",
)
def add_server(args: argparse.Namespace, home: Home) -> int:
    """Register a server and pin its host key; on a terminal it asks for what is missing."""
    config = home.config()
    inventory = Inventory(home.servers, config.defaults)
    data = _described(args, inventory)
    path = inventory.path(data["id"])
    server = servers.parse(yamlfile.dump(data), path.name, data["id"])
    inventory.jump(server)

    def save() -> None:
        from fleetshell_tools.offline import record

        with storage.locked(home.path / ".servers.lock"):
            _refuse_existing(inventory, server.id)
            record(home, config, "server_added", "add-server", server_id=server.id, hostname=server.hostname)
            servers.write(path, data)
        print(f"Added {server.id}: {path}")

    if args.no_verify:
        save()
        print(f"It was not contacted. Next: `fleetshell test {server.id}`.")
        return 0
    return _verified(home, config, server, save)


def _verified(home: Home, config: Config, server: Server, save: Callable[[], None]) -> int:
    """Look at the host key, save, pin, and try the login; a server that can't be reached now is saved all the same."""
    from fleetshell_tools.offline import changed_keys, client_fleet

    fleet, inventory, close = client_fleet(home, config)
    try:
        try:
            offered = changed_keys(fleet, server, time.monotonic() + SECONDS, Cancellation())
        except (Unreachable, TimedOut) as error:
            save()
            output.warn(f"{error.message}\n{server.id} was added all the same. Its host key is pinned at the first contact; "
                        f"`fleetshell test {server.id}` tries again.")  # fmt: skip
            return 0
        old = fleet.fingerprints(server)
        if offered and old:
            save()
            output.warn(f"another host key than the one it shows now is pinned for the id {server.id} from earlier, so it can't be used yet. "
                        f"`fleetshell trust {server.id}` shows both.")  # fmt: skip
            return 0
        shown = ", ".join([key.fingerprint for key in offered] or old)
        print(f"Host key of {server.hostname}: {shown}{'' if offered else ' (already pinned)'}")
        if offered and output.interactive() and not output.confirm("Is that its key?", default=True):
            print("Nothing was added.")
            return FleetShellError.exit_code
        save()
        if offered:
            fleet.host_keys.pin(server.id, offered)
            print(
                "Its host key is pinned"
                + ("." if output.interactive() else ": trusted on first use, so compare it with the server's own.")
            )
        if not _try_login(home, config, fleet, server) and _put_key(home, config, inventory, server):
            _try_login(home, config, fleet, server)
    finally:
        close()
    return 0


def _try_login(home: Home, config: Config, fleet: SshFleet, server: Server) -> bool:
    """Log in and run `true`; where that fails, say what is left to do. Returns False where only the relay's key is missing."""
    from fleetshell_tools.offline import cli_caller, public_line

    try:
        fleet.run(
            cli_caller("add-server"),
            server,
            Act("true"),
            timeout=SECONDS,
            cancelled=Cancellation(),
            progress=lambda *_: None,
        )
    except (Unreachable, TimedOut) as error:
        line = public_line(home, config)
        install = isinstance(error, Unreachable) and error.step == "login" and server.identity_file is None
        output.warn(error.message + (f"\nThe line of `fleetshell pubkey` is:\n{line}" if install else ""))
        print(f"Next: `fleetshell test {server.id}` once that is done.")
        return not install
    print("The login works.")
    return True


def _put_key(home: Home, config: Config, inventory: Inventory, server: Server) -> bool:
    """Offer to put the relay's key there; returns whether that was done."""
    if not output.interactive() or not output.confirm("Put the key there now, through your own ssh?", default=True):
        return False
    from fleetshell_tools.cli import own_ssh
    from fleetshell_tools.offline import public_line, record

    (put,) = own_ssh.put(inventory, [server], public_line(home, config))
    print(f"{server.id}: {put.sentence}")
    if put.state == "added":
        record(home, config, "key_installed", "add-server", server_id=server.id)
    return put.state in ("added", "there")


def _described(args: argparse.Namespace, inventory: Inventory) -> dict[str, Any]:
    """What the server's file will hold, from the command line and from answers, in the order of the documented example."""
    known: dict[str, Any] = {}
    for field in FIELDS:
        raw = getattr(args, field.option)
        if raw is not None:
            known[field.key] = _given(field.option, field.key, raw)
    more = _more(args)
    if "id" in known:
        _refuse_existing(inventory, known["id"])
    if output.interactive():
        for field in FIELDS:
            if field.key not in known:
                known[field.key] = _asked(field, inventory)
    missing = [f"--{name}" for name in REQUIRED if name not in known]
    if missing:
        raise UsageError(f"{' and '.join(missing)} must be given: there is no terminal to ask on.")
    data = {
        field.key: known[field.key]
        for field in FIELDS
        if field.key not in CONTEXT and known.get(field.key) not in (None, "", [])
    }
    context = {key: known[key] for key in CONTEXT if known.get(key)}
    return {**data, **({"context": context} if context else {}), **more}


def _more(args: argparse.Namespace) -> dict[str, Any]:
    """The keys that are never asked for."""
    more: dict[str, Any] = {}
    options: dict[str, str] = {}
    for text in args.options:
        name, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise UsageError(f'--options: "{text}" is not of the form NAME=VALUE.')
        options[name.strip()] = value.strip()
    if args.jump is not None:
        more["jump"] = _given("jump", "jump", args.jump)
    if args.key is not None:
        key = Path(os.path.abspath(os.path.expanduser(args.key)))
        if not key.is_file():
            raise UsageError(f"--key: there is no file {key}.")
        more["identity_file"] = str(key)
    if options:
        more["ssh_options"] = _given("options", "ssh_options", options)
    return more


def _given(option: str, key: str, raw: Any) -> Any:
    """The value of an option of the command line."""
    try:
        return _value(key, raw)
    except ConfigError as error:
        raise UsageError(f"--{option}: {error.message}") from None


def _value(key: str, raw: Any) -> Any:
    """One value as it stands in the file, checked by the rules of server files.

    Raises:
        ConfigError: It is impossible; the sentence says what is allowed.
    """
    value = raw.strip() if isinstance(raw, str) else raw
    if key == "tags":
        value = list(dict.fromkeys(tag for part in value.split(",") if (tag := part.strip())))
    elif key == "ssh_port" and value.isascii() and value.isdigit():
        value = int(value)
    trial = {
        "id": "a" if value == "b" else "b",
        "hostname": "x",
        **({"context": {key: value}} if key in CONTEXT else {key: value}),
    }
    try:
        servers.parse(yamlfile.dump(trial), "trial")
    except UnicodeEncodeError:
        raise ConfigError("that is not UTF-8 text.") from None
    except ConfigError as error:
        # The line number of the trial would tell nobody anything.
        raise ConfigError(error.message.partition(": ")[2]) from None
    return value


def _asked(field: _Field, inventory: Inventory) -> Any:
    """Ask until the answer is possible; None where it may stay out of the file."""
    default = _default(field.key, inventory)
    while True:
        answer = output.ask(field.question, default)
        if not answer and field.key not in REQUIRED:
            return None
        try:
            value = _value(field.key, answer)
            if field.key == "id":
                _refuse_existing(inventory, value)
        except FleetShellError as error:
            print(error.message)
            continue
        if value == getattr(inventory.defaults, field.key, ""):
            return None  # the file then follows a later change of `defaults` in config.yaml
        return value


def _default(key: str, inventory: Inventory) -> str:
    if key == "ssh_user":
        return inventory.defaults.ssh_user or _own_name()
    return str(inventory.defaults.ssh_port or 22) if key == "ssh_port" else ""


def _own_name() -> str:
    """What ssh itself would log in as; nothing where this user id has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _refuse_existing(inventory: Inventory, server_id: str) -> None:
    path = inventory.path(server_id)
    if os.path.lexists(path):
        raise FleetShellError(
            f"There is already a server {server_id} ({path}). Change it with `fleetshell edit {server_id}`."
        )


COMMANDS = (add_server,)
