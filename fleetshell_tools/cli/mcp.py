"""`mcp add`, `enable`, `disable`, `remove`, `accept` and `logs`: the external MCP servers and their files."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, Command, Parser, command
from fleetshell_tools.cli.mcp_shown import list_mcps, test
from fleetshell_tools.core import yamlfile
from fleetshell_tools.core.errors import FleetShellError, NotFound, UsageError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.masking import mask_arguments
from fleetshell_tools.core.mcp_pins import Pins
from fleetshell_tools.core.mcps import MCP_ID, MCP_ID_MEANS, Mcp, McpStore, parse, resolved
from fleetshell_tools.core.text import clean
from fleetshell_tools.core.types import Cancellation

if TYPE_CHECKING:
    from fleetshell_tools.core.install_plan import Plan

ID = Arg("id", metavar="ID", help="the server's id")
YES = Arg("--yes", action="store_true", help="do not ask")
LAUNCHERS = ("npx", "uvx", "bunx", "pnpx")
"""Programs that fetch the newest version of a package at each start, unless they are given an exact one."""
FOLLOW_SECONDS = 0.25


class _WithArguments(Parser):
    """Takes the word after each `-a` for its value, even where it begins with `-`, which argparse refuses.

    Options may also stand between ID and COMMAND.
    """

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """See `ArgumentParser`."""
        words: list[str] = []
        given: list[str] = []
        rest = iter(sys.argv[1:] if args is None else args)
        for word in rest:
            value = next(rest, None) if word in ("-a", "--arg") else None
            if value is not None:
                given.append(value)
            elif word.startswith("--arg="):
                given.append(word.removeprefix("--arg="))
            else:
                words.append(word)
        parsed: argparse.Namespace = self.parse_intermixed_args(words, namespace)
        parsed.arg = given
        return parsed


class _Add(Command):
    """`mcp add`, whose `-a` takes anything."""

    def parser(self, prog: str, kind: type[Parser] = _WithArguments) -> Parser:
        """See `Command`."""
        return super().parser(prog, kind)


def _add(args: argparse.Namespace, home: Home) -> int:
    """Add an external MCP server: write its file, without starting or fetching anything. A relay that runs starts it."""
    config = home.config()
    if bool(args.command) == bool(args.url):
        raise UsageError("Give either the COMMAND that starts the server, or its --url.")
    values: dict[str, Any] = {"id": args.id, "name": args.name or args.id}
    if args.url:
        values.update(url=args.url, headers=_pairs(args.header, "--header"))
        wrong = [option for option, given in (("-a", args.arg), ("--env", args.env)) if given]
    else:
        values.update(command=args.command, args=args.arg, env=_pairs(args.env, "--env"))
        wrong = ["--header"] if args.header else []
    if wrong:
        raise UsageError(f"{' and '.join(wrong)} can't be used with {'--url' if args.url else 'a COMMAND'}.")
    tags = [tag.strip() for tag in args.tags.split(",") if tag.strip()]
    values.update(enabled=True, auto_start=True, description=args.description, tags=tags)
    store = _store(home)
    _check(store, values)
    from fleetshell_tools.offline import recorder

    with recorder(home, config, "mcp add") as record:
        record("mcp_added", mcp_id=args.id, command=_shown(args.url or args.command, args.arg))
    mcp = store.write(values)
    if args.json:
        output.print_json({**values, "file": str(store.path(mcp.id))})
        return 0
    print(f"Added {mcp.id}: {store.path(mcp.id)}\nTry it with `fleetshell mcp test {mcp.id}`.")
    _warn_of_launchers(mcp)
    return 0


add = _Add(
    "mcp add",
    _add,
    (
        ID,
        Arg("command", metavar="COMMAND", nargs="?", help="the program that starts the server"),
        Arg("-a", "--arg", metavar="ARG", action="append", default=[], help="an argument of the program; again for more"),
        Arg("--env", metavar="K=V", action="append", default=[], help="an environment variable; ${env:NAME} and ${file:PATH} may stand in it"),
        Arg("--url", metavar="U", help="the address of a remote server, in place of COMMAND"),
        Arg("--header", metavar="K=V", action="append", default=[], help="a header for --url; values as for --env"),
        Arg("--name", metavar="N", default="", help="its name for people (default: the id)"),
        Arg("--description", metavar="D", default="", help="what it is for"),
        Arg("--tags", metavar="A,B", default="", help="words to find it by"),
        JSON,
    ),
    'fleetshell mcp add playwright npx -a -y -a @playwright/mcp@0.0.83 --name "Playwright Browser" --tags browser,automation',
)  # fmt: skip


def _check(store: McpStore, values: dict[str, Any]) -> None:
    """Refuse what can't be written, before the audit log says that it was."""
    path = store.path(values["id"])
    if not re.fullmatch(MCP_ID, values["id"]):
        raise UsageError(f'"{values["id"][:80]}" can\'t be an id; allowed: {MCP_ID_MEANS}.')
    parse(yamlfile.dump(values), str(path), values["id"])
    if os.path.lexists(path):
        raise UsageError(
            f'There is an external MCP server "{values["id"]}" already; `fleetshell mcp remove {values["id"]}` removes it.'
        )


def _pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """`K=V` options as a map; the value is everything after the first `=`."""
    found: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{option} takes NAME=VALUE; {name[:60]!r} has no value.")
        found[name.strip()] = value
    return found


def _shown(program: str, arguments: Sequence[str]) -> str:
    return " ".join(mask_arguments([program, *arguments]))


def _warn_of_launchers(mcp: Mcp) -> None:
    if os.path.basename(mcp.command or "") not in LAUNCHERS:
        return
    package = next((word for word in mcp.args if not word.startswith("-")), "")
    if package and not re.search(r"(?<=.)(?:@|==)[0-9]+(?:\.[0-9]+)+", package):
        output.warn(
            f"{mcp.command} fetches whatever {package} is newest at each start, reviewed by nobody; name an exact version, as in {package}@1.2.3."
        )


@command("mcp enable", ID, example="fleetshell mcp enable playwright")
def enable(args: argparse.Namespace, home: Home) -> int:
    """Enable an external MCP server; a relay that runs starts it."""
    mcp = _switch(home, args.id, True)
    print(f"Enabled {args.id}.")
    try:
        resolved(mcp, home.path)
    except FleetShellError as error:
        output.warn(error.message)
    return 0


@command("mcp disable", ID, example="fleetshell mcp disable playwright")
def disable(args: argparse.Namespace, home: Home) -> int:
    """Disable an external MCP server; a relay that runs stops it."""
    _switch(home, args.id, False)
    print(f"Disabled {args.id}.")
    return 0


def _switch(home: Home, mcp_id: str, enabled: bool) -> Mcp:
    config, store = home.config(), _store(home)
    store.get(mcp_id)
    from fleetshell_tools.offline import record

    word = "enable" if enabled else "disable"
    record(home, config, f"mcp_{word}d", f"mcp {word}", mcp_id=mcp_id)
    return store.set_value(mcp_id, "enabled", enabled)


@command("mcp remove", ID, YES, example="fleetshell mcp remove playwright")
def remove(args: argparse.Namespace, home: Home) -> int:
    """Remove an external MCP server: its file, and what the marketplace installed for it. Without a terminal it does not ask."""
    config, store = home.config(), _store(home)
    from fleetshell_tools.offline import marketplace, record

    market = marketplace(home)
    if args.id not in market.staged() and not os.path.lexists(store.path(args.id)):
        store.get(args.id)
    if output.interactive() and not args.yes and not output.confirm(f"Remove {args.id} and what was installed for it?"):
        print("Nothing was removed.")
        return 1
    record(home, config, "mcp_removed", "mcp remove", mcp_id=args.id)
    kept = market.remove(args.id)
    print(f"Removed {args.id}.{f' What it had saved is still in {kept}.' if kept else ''}")
    return 0


@command("mcp accept", ID, YES, JSON, example="fleetshell mcp accept playwright")
def accept(args: argparse.Namespace, home: Home) -> int:
    """Show what waits for you: a package to install, or tools whose definitions have changed. Then accept it."""
    home.config()
    from fleetshell_tools.offline import marketplace

    plan = marketplace(home).staged().get(args.id)
    if plan is not None:
        return _accept_package(args, home, plan)
    pins = Pins(home.path / "mcps" / ".pins")
    pending = pins.pending(args.id) if args.id in _known(home) else {}
    if not pending:
        if args.id not in _known(home):
            raise NotFound(
                f'Nothing of "{args.id[:80]}" waits to be accepted. `fleetshell mcp list` shows what there is.'
            )
        print(f"Nothing of {args.id} waits to be accepted.")
        return 0
    for name, lines in pending.items():
        print(f"The tool {name} of {args.id} has changed:", file=sys.stderr if args.json else None)
        for line in lines:
            print(f"  {line}", file=sys.stderr if args.json else None)
    if not _agreed(args, f"Let {args.id} use what changed?"):
        return 1
    from fleetshell_tools.offline import record

    record(home, home.config(), "mcp_tools_accepted", "mcp accept", mcp_id=args.id, tools=list(pending))
    accepted = pins.accept(args.id, pending)
    if args.json:
        output.print_json({"mcp_id": args.id, "accepted": accepted})
    else:
        print(f"Accepted {', '.join(accepted)} of {args.id}.")
    return 0


def _accept_package(args: argparse.Namespace, home: Home, plan: Plan) -> int:
    for line in _described(plan):
        print(line, file=sys.stderr if args.json else None)
    if not _agreed(args, f"Install {plan.spec} and let it run as {args.id}?"):
        return 1
    from fleetshell_tools.offline import marketplace, recorder

    with recorder(home, home.config(), "mcp accept") as write:
        done = marketplace(home).accept(plan, record=write, cancelled=Cancellation())
    if args.json:
        output.print_json(
            {
                "mcp_id": args.id,
                "package": plan.spec,
                "installed": True,
                "enabled": done.enabled,
                "missing": plan.missing,
            }
        )
        return 0
    print(f"Installed {plan.spec} as {args.id}; it is {'enabled' if done.enabled else 'disabled'}.")
    for sentence in plan.missing:
        print(f"It still needs {sentence}: add it to mcps/{args.id}.conf, then run `fleetshell mcp enable {args.id}`.")
    return 0


def _described(plan: Plan) -> list[str]:
    """What the operator has to see before it runs; of variables only the names, but for references, which are no secrets."""
    reference = re.compile(r"\$\{(?:env|file):[^{}]*\}")
    names = [
        f"{name}={value}" if reference.fullmatch(value) else name
        for name, value in {**plan.env, **plan.headers}.items()
    ]
    rows = [
        ("package", plan.spec),
        ("asked for", f"{plan.package_name}, {plan.staged_at}"),
        ("reviewed", "yes, it is in the marketplace" if plan.entry else "no: nobody has reviewed this package"),
        ("integrity", plan.integrity),
        ("command", plan.program or plan.url),
        ("arguments", "  ".join(plan.args) or "none"),
        ("environment", ", ".join(names) or "none"),
        ("dependencies", "as reviewed" if plan.dependencies is None else str(plan.dependencies)),
        ("install scripts", f"not run: {', '.join(plan.scripts)}" if plan.scripts else "none"),
    ]
    return [f"{plan.mcp_id} waits for you:", *(f"  {name:<16}{clean(value)}" for name, value in rows if value)]


def _agreed(args: argparse.Namespace, question: str) -> bool:
    if args.yes:
        return True
    if not output.interactive():
        raise UsageError(f"Nothing was changed. If that is what you want, run `fleetshell mcp accept {args.id} --yes`.")
    if output.confirm(question):
        return True
    print("Nothing was changed.")
    return False


@command(
    "mcp logs",
    ID,
    Arg("-n", type=int, default=50, metavar="N", help="how many lines, the newest (default 50)"),
    Arg("-f", "--follow", action="store_true", help="go on printing lines as they come, until Ctrl-C"),
    example="fleetshell mcp logs playwright -n 100",
)
def logs(args: argparse.Namespace, home: Home) -> int:
    """Show what an external MCP server printed on its standard error, and when it was started and stopped."""
    home.check()
    path = home.logs / f"mcp-{args.id}.log"
    if not re.fullmatch(r"[a-z0-9_-]+", args.id) or not path.exists():
        _store(home).get(args.id)
        if not args.follow:
            print(f"{args.id} has not printed anything yet.")
            return 0
    for line in _lines(path, max(args.n, 0), threading.Event() if args.follow else None):
        print(clean(line), flush=True)
    return 0


def _lines(path: Path, last: int, stop: threading.Event | None) -> Iterator[str]:
    """The last lines of a log, the rotated one included; with `stop`, what is added until it is set."""
    lines: list[str] = []
    for name in (path.with_name(path.name + ".1"), path):
        if name.exists() and (name == path or len(lines) < last):
            lines += name.read_text("utf-8", "replace").splitlines()
    read, inode = _state(path)
    yield from lines[-last:] if last else []
    rest = b""
    while stop is not None and not stop.wait(FOLLOW_SECONDS):
        size, now = _state(path)
        if now != inode or size < read:
            read, inode, rest = 0, now, b""
        if size > read:
            with path.open("rb") as file:
                file.seek(read)
                data = file.read(size - read)
            read += len(data)
            *whole, rest = (rest + data).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in whole)


def _state(path: Path) -> tuple[int, int]:
    try:
        info = path.stat()
    except FileNotFoundError:
        return 0, 0
    return info.st_size, info.st_ino


def _store(home: Home) -> McpStore:
    home.check()
    return McpStore(home.path / "mcps")


def _known(home: Home) -> list[str]:
    good, bad = _store(home).listing()
    return [*(mcp.id for mcp in good), *bad]


COMMANDS = (add, list_mcps, test, enable, disable, remove, accept, logs)
