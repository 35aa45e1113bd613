"""`auth add-user`, `auth list`, `auth remove`: several people on one relay, each with their own key, codes and servers."""

from __future__ import annotations

import argparse
import re
import time
from typing import Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.auth import totp_block, totp_facts, writing
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.cli.connect import CLIENT_OPTIONS, desktop_settings, show
from fleetshell_tools.cli.setup import new_api_key
from fleetshell_tools.core import control
from fleetshell_tools.core.errors import AuthenticationFailed, ConfigError, FleetShellError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.people import NAME, OWNER, POLICIES, People, Person, digest
from fleetshell_tools.core.servers import Inventory
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.types import EVERY_SERVER


def _name(text: str) -> str:
    if not NAME.fullmatch(text) or text == OWNER:
        raise argparse.ArgumentTypeError(
            f'"{one_line(text, 80)}" is no name for a person: letters, digits, `.`, `_`, `-`, at most 64, and not {OWNER}'
        )
    return text


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word for word in re.split(r"[,\s]+", text) if word)
    if not words:
        raise argparse.ArgumentTypeError("at least one is needed, with commas between them")
    return words


@command(
    "auth add-user",
    Arg("name", metavar="NAME", type=_name, help="how the audit log calls the person"),
    Arg("--servers", type=_words, metavar="A,B", default=(), help="the servers that they may use; without this and --tags: every server"),
    Arg("--tags", type=_words, metavar="T,U", default=(), help="servers with one of these tags may be used too, those that get it later as well"),
    Arg("--policy", choices=POLICIES, default="normal", help="read_only: reading tools, and commands that the guard knows to read"),
    *CLIENT_OPTIONS,
    JSON,
    example="fleetshell auth add-user alice --servers web-1,web-2 --tags staging --policy read_only",
)  # fmt: skip
def add_user(args: argparse.Namespace, home: Home) -> int:
    """Let another person use this relay; prints their QR code and client configuration, once: the key is kept nowhere."""
    config = home.config()
    from fleetshell_tools.offline import new_totp_secret, record

    _check_servers(home, args.servers)
    servers = args.servers or (() if args.tags else (EVERY_SERVER,))
    key, secret = new_api_key(), new_totp_secret()
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    person = Person(args.name, digest(key), secret, servers, args.tags, args.policy, now)
    people = People(home.users)
    people.look()
    if args.name in people.problems() or args.name in {other.name for other in people.all()}:
        raise ConfigError(
            f"There is a person {args.name} already. `fleetshell auth remove {args.name}` removes them, for a new key and a new code."
        )
    settings = desktop_settings(home, key)  # whatever is wrong with the certificate must show before the key is valid
    with writing(home):
        record(
            home, config, "user_added", "auth add-user", user=person.name, key=person.key_id, servers=list(servers),
            tags=list(args.tags), policy=person.policy,
        )  # fmt: skip
        people.add(person)
    told = _tell(home)
    if args.json:
        output.print_json({**_facts(person), **totp_facts(secret, _account(person)), "api_key": key, **settings})
        return 0
    print(f"{person.name} may use {_reach(person)}. {told}")
    output.warn(
        "what follows holds an API key and a TOTP secret, and is shown this once. Give it to that person, and to nobody else."
    )
    print(f"\n{totp_block(secret, _account(person))}\n")
    show(home, args, key)
    return 0


@command("auth list", JSON, example="fleetshell auth list")
def list_people(args: argparse.Namespace, home: Home) -> int:
    """List who may use this relay, with which servers, and who is locked out after wrong codes."""
    config = home.config()
    from fleetshell_tools.offline import auth_state, key_id

    people = People(home.users)
    people.look()
    owner: dict[str, Any] = {
        "name": OWNER, "key_id": key_id(config), "servers": [EVERY_SERVER], "tags": [], "policy": "normal", "created_at": None,
    }  # fmt: skip
    entries = [owner, *(_facts(person) for person in people.all())]
    try:
        states = auth_state(home).read()
    except (AuthenticationFailed, ConfigError) as error:
        output.warn(error.message)
        states = {}
    for entry in entries:
        state = states.get(entry["key_id"])
        until = state.locked_until if state else 0.0
        entry["locked_out_until"] = _utc(until) if until > time.time() else None
    if args.json:
        output.print_json({"people": entries, "problems": people.problems()})
        return 0
    rows = [
        [entry["name"], entry["key_id"], ", ".join(entry["servers"]) or "-", ", ".join(entry["tags"]) or "-", entry["policy"],
         (entry["created_at"] or "-"), f"locked out until {entry['locked_out_until']}" if entry["locked_out_until"] else ""]
        for entry in entries
    ]  # fmt: skip
    print(output.table(["Name", "Key", "Servers", "Tags", "Policy", "Added", ""], rows))
    for name, problem in people.problems().items():
        print(f"\n{'Everybody but the owner' if name == '*' else name} is shut out: {problem}")
    return 0


@command(
    "auth remove",
    Arg("name", metavar="NAME", help="the person, from `auth list`"),
    JSON,
    example="fleetshell auth remove alice",
)
def remove(args: argparse.Namespace, home: Home) -> int:
    """End a person's access now: their key, authentications, running calls, jobs and shell sessions."""
    if args.name == OWNER:
        raise FleetShellError(
            "The owner's key stands in config.yaml and can't be removed; `fleetshell auth rotate-key --keep 0` replaces it."
        )
    config = home.config()
    from fleetshell_tools.offline import record

    with writing(home):
        people = People(home.users)
        people.check_known(args.name)
        record(home, config, "user_removed", "auth remove", user=args.name)
        people.remove(args.name)
    ended = _ask(home)
    if args.json:
        output.print_json({"name": args.name, "removed": True, "ended": ended or {}})
        return 0
    print(f"{args.name} has no access any more.")
    if ended:
        parts = [f"{count} {what.replace('_', ' ')}" for what, count in ended.items() if count]
        print(f"Ended: {', '.join(parts) or 'nothing was running'}.")
    return 0


def _check_servers(home: Home, wanted: tuple[str, ...]) -> None:
    """Refuse ids that nobody has registered: a misspelt one would be somebody else's server later."""
    inventory = Inventory(home.servers)
    known = inventory.ids()
    for server_id in wanted:
        if server_id != EVERY_SERVER and server_id not in known:
            inventory.get(server_id)


def _facts(person: Person) -> dict[str, Any]:
    return {
        "name": person.name, "key_id": person.key_id, "servers": list(person.servers), "tags": list(person.tags),
        "policy": person.policy, "created_at": person.created_at or None,
    }  # fmt: skip


def _reach(person: Person) -> str:
    if EVERY_SERVER in person.servers:
        reach = "every server"
    else:
        parts = [", ".join(person.servers)] * bool(person.servers)
        parts += [f"servers tagged {' or '.join(person.tags)}"] * bool(person.tags)
        reach = " and ".join(parts)
    return f"{reach}, to read only" if person.policy == "read_only" else reach


def _account(person: Person) -> str:
    return f"fleetshell-{person.name}"


def _ask(home: Home) -> dict[str, Any] | None:
    """Make a running relay look at `users/`; None where none is running.

    Raises:
        FleetShellError: It is saved, but the relay did not answer as it should.
    """
    try:
        return control.ask(home.control_socket, {"do": "heed_people"})
    except FleetShellError as error:
        raise FleetShellError(
            f"The change is saved, and a running relay sees it within seconds, but it did not say so: {error.message}"
        ) from None


def _tell(home: Home) -> str:
    return "No relay is running; it holds when one starts." if _ask(home) is None else "The running relay knows."


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


COMMANDS = (add_user, list_people, remove)
