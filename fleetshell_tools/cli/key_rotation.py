"""`key rotate`: a new key, pushed with the old one and verified on every server; then the switch, and the old one removed.

What is done stands in `key-rotation.json` in the home, so that an interrupted rotation goes on where it was. Every action can be done
twice: until the switch the relay uses the old key, which every server still accepts; after it the new one, which every server was seen
to accept.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core import storage
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import ConfigError, FleetShellError, Unreachable
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.scripts import Script
from fleetshell_tools.core.servers import Inventory, Server
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.types import Act, Cancellation

if TYPE_CHECKING:
    from fleetshell_tools.offline import SshFleet

AT_ONCE = 16
SECONDS = 60
"""How long one action on one server may take."""

_PUSH = """
cd
for f in .ssh/authorized_keys .ssh/authorized_keys2; do
  grep -qF "$1" "$f" 2>/dev/null || continue
  if grep -qF "$2" "$f"; then exit 0; fi
  new=$(grep -F "$1" "$f" | sed "s|$1|$2|")
  [ -z "$(tail -c 1 "$f")" ] || echo >>"$f"
  printf '%s\\n' "$new" >>"$f" || exit 1
  exit 0
done
exit 3
"""
"""Adds the key `$2` with the options that the key `$1` has there."""

_REMOVE = """
cd
for f in .ssh/authorized_keys .ssh/authorized_keys2; do
  grep -qF "$1" "$f" 2>/dev/null || continue
  grep -qF "$2" "$f" || exit 3
  f=$(readlink -f "$f")
  cp -p "$f" "$f.fleetshell.$$" && grep -vF "$1" "$f" >"$f.fleetshell.$$" && mv "$f.fleetshell.$$" "$f" || exit 1
done
"""
"""Removes the key `$1` where the key `$2` stays."""


@dataclass
class _State:
    """How far a rotation is; `verified` and `removed` map a server's id to the login there that it was done for."""

    stage: str
    old: str
    new: str
    verified: dict[str, str] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)


@command(
    "key rotate",
    Arg("--without", action="append", default=[], metavar="ID", help="leave out a server that will not come back; may be given several times"),
    Arg("--yes", action="store_true", help="do not ask"),
    JSON,
    example="fleetshell key rotate",
)  # fmt: skip
def rotate(args: argparse.Namespace, home: Home) -> int:
    """Replace the relay's SSH key on every server and here; run again, it goes on where it was.

    The new key is put on each server with the old one and tried; once all have it the relay switches, and the old key is removed
    everywhere. A server that can't be reached holds the switch up: exit code 1, and nothing is lost. The relay may run meanwhile.
    """
    config = home.config()
    held = storage.try_lock(home.path / ".key-rotation.lock")
    if held is None:
        raise FleetShellError("Another `fleetshell key rotate` is at work in this home. Wait until it has ended.")
    try:
        return _Rotation(home, config, args).run()
    finally:
        os.close(held)


class _Rotation:
    def __init__(self, home: Home, config: Config, args: argparse.Namespace) -> None:
        self._home = home
        self._config = config
        self._args = args
        self._file = home.path / "key-rotation.json"
        self._private = home.file(config.relay.private_key)
        self._public = home.file(config.relay.public_key)
        self._next = self._private.with_name(f"{self._private.stem}-next.key")
        self._previous = self._private.with_name(f"{self._private.stem}-previous.key")
        self._said: dict[str, str] = {}

    def run(self) -> int:
        """Do all that can be done now; returns the exit code."""
        state = self._load()
        inventory = Inventory(self._home.servers, self._config.defaults)
        for name in self._args.without:
            if name not in inventory.ids():
                inventory.get(name)
        if state is None:
            if not self._agreed(inventory):
                print("Nothing was changed.")
                return FleetShellError.exit_code
            state = self._begin()
        else:
            self._say(f"Going on with the rotation that was begun before ({self._file.name}).")
        if state.stage == "push":
            if not self._everywhere(state, inventory, state.verified, self._push, "has the new key"):
                return self._stopped("The relay still uses the old key, which works everywhere.")
            self._record("key_switched", old=_short(state.old), new=_short(state.new))
            self._save(replace(state, stage="switch"))
            state.stage = "switch"
        if state.stage == "switch":
            self._switch(state)
            self._say("The relay uses the new key now.")
        self._drop(self._next)
        if not self._everywhere(state, inventory, state.removed, self._remove, "has no longer the old key"):
            return self._stopped("The relay uses the new key; these servers still accept the old one too.")
        self._drop(self._previous)
        self._file.unlink(missing_ok=True)
        storage.sync_folder(self._home.path)
        if self._args.json:
            output.print_json({"done": True, "stage": "done", "public_key": state.new, "problems": {}})
        else:
            print(f"Done. The old key is gone. The new line for authorized_keys:\n{state.new}")
        return 0

    def _agreed(self, inventory: Inventory) -> bool:
        if self._args.yes or not output.interactive():
            return True
        count = len(inventory.ids())
        return output.confirm(f"Replace the relay's key on {count} server{'s' * (count != 1)}?", default=True)

    def _load(self) -> _State | None:
        try:
            state = _State(**json.loads(self._file.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise ConfigError(
                f"{self._file} is damaged. If relay-next.key is on no server, remove that file and begin again."
            ) from None
        from fleetshell_tools.offline import public_line

        now = public_line(self._home, self._config)
        if now not in ([state.old] if state.stage == "push" else [state.old, state.new]):
            raise ConfigError(f"{self._private} is not the key with which the rotation in {self._file} was begun. "
                              f"Put that key back, or remove {self._file} and begin again.")  # fmt: skip
        return state

    def _begin(self) -> _State:
        from fleetshell_tools.offline import create_relay_key, line_of, public_line

        old = public_line(self._home, self._config)
        create_relay_key(self._next)
        state = _State("push", old, line_of(self._next))
        self._record("key_rotation", old=_short(old), new=_short(state.new))
        self._save(state)
        self._say("A new key was made. Until it is everywhere the relay uses the old one.")
        return state

    def _save(self, state: _State) -> None:
        storage.write_atomic(self._file, json.dumps(asdict(state), indent=1) + "\n")

    def _switch(self, state: _State) -> None:
        """Make the new key the relay's; every crash on the way leaves one of the two in its place, and the other beside it."""
        if self._next.exists() and self._private.read_bytes() != self._next.read_bytes():
            storage.write_atomic(self._previous, self._private.read_bytes())
            storage.write_atomic(self._private, self._next.read_bytes())
        storage.write_atomic(self._public, state.new + "\n")
        state.stage = "remove"
        self._save(state)

    def _drop(self, private: Path) -> None:
        for path in (private, private.with_suffix(".pub")):
            path.unlink(missing_ok=True)

    def _everywhere(
        self, state: _State, inventory: Inventory, done: dict[str, str],
        action: Callable[[SshFleet, Server, _State], None], result: str,
    ) -> bool:  # fmt: skip
        """Do something on every server where it is not done yet; returns whether none is left."""
        from fleetshell_tools.offline import client_fleet

        self._said = {
            name: f"its file is invalid: {reason}"
            for name, reason in inventory.problems().items()
            if name not in self._args.without
        }
        todo = [server for server in self._ours(inventory) if done.get(server.id) != _login(inventory, server)]
        fleet, _, close = client_fleet(self._home, self._config)
        try:
            for server, problem in _all(todo, lambda server: action(fleet, server, state)):
                if problem:
                    self._said[server.id] = problem
                    self._say(f"{output.paint('✗', 'red')} {server.id}: {problem}")
                    continue
                done[server.id] = _login(inventory, server)
                self._save(state)
                self._say(f"{output.paint('✓', 'green')} {server.id} {result}")
        finally:
            close()
        return not self._said

    def _ours(self, inventory: Inventory) -> Iterable[Server]:
        return [
            server
            for server in inventory.all()
            if server.connection != "local" and not server.identity_file and server.id not in self._args.without
        ]

    def _push(self, fleet: SshFleet, server: Server, state: _State) -> None:
        """Put the new key beside the old one, and see that it lets the relay in."""
        if not server.raw:
            try:
                self._script(fleet, server, _PUSH, state, "put the new key there")
            except Unreachable as error:
                if error.step != "login":
                    raise
                # Somebody may have replaced the key there already; the trial below tells.
        try:
            self._run(fleet, replace(server, identity_file=str(self._next)))
        except Unreachable as error:
            if server.raw and error.step == "login":
                raise FleetShellError(f"it is `raw`: put this line there by its own means: {state.new}") from None
            raise

    def _remove(self, fleet: SshFleet, server: Server, state: _State) -> None:
        if not server.raw:
            self._script(fleet, server, _REMOVE, state, "remove the old key there")

    def _script(self, fleet: SshFleet, server: Server, text: str, state: _State, what: str) -> None:
        from fleetshell_tools.offline import cli_caller

        blobs = (state.old.split()[1], state.new.split()[1])
        ran = fleet.run_script(
            cli_caller("key rotate"), server, Script("key rotate", text, blobs, shown=what), timeout=SECONDS, cancelled=Cancellation()
        )  # fmt: skip
        if ran.exit_code == 3:
            raise FleetShellError(
                "the relay's key stands in none of ~/.ssh/authorized_keys and authorized_keys2 there, so its login takes it from "
                f"elsewhere. Add the new line there yourself, and leave this server out with `--without {server.id}`: {state.new}"
            )
        if ran.exit_code != 0:
            raise FleetShellError(f"could not {what}: {one_line(ran.stderr, 200) or f'exit code {ran.exit_code}'}")

    def _run(self, fleet: SshFleet, server: Server) -> None:
        from fleetshell_tools.offline import cli_caller

        fleet.run(
            cli_caller("key rotate"),
            server,
            Act("true"),
            timeout=SECONDS,
            cancelled=Cancellation(),
            progress=lambda *_: None,
        )

    def _record(self, event: str, **fields: Any) -> None:
        from fleetshell_tools.offline import record

        record(self._home, self._config, event, "key rotate", **fields)

    def _say(self, text: str) -> None:
        if not self._args.json:
            print(text, flush=True)

    def _stopped(self, where: str) -> int:
        if self._args.json:
            output.print_json(
                {"done": False, "stage": json.loads(self._file.read_text())["stage"], "problems": self._said}
            )
        else:
            for name, reason in self._said.items():
                if reason.startswith("its file is invalid"):
                    print(f"{output.paint('✗', 'red')} {one_line(name)}: {one_line(reason, 500)}")
            print(f"{len(self._said)} left. {where} Run `fleetshell key rotate` again once that is mended; "
                  f"`--without ID` leaves a server out for good.")  # fmt: skip
        return FleetShellError.exit_code


def _all(todo: list[Server], action: Callable[[Server], None]) -> Iterable[tuple[Server, str]]:
    """Run an action on servers, several at once; yields each as it ends, with its problem."""

    def one(server: Server) -> str:
        try:
            action(server)
        except FleetShellError as error:
            return error.message
        return ""

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="rotate") as pool:
        try:
            futures = {pool.submit(one, server): server for server in todo}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _login(inventory: Inventory, server: Server) -> str:
    """What a server is reached by: after an edit of its file it counts as another."""
    return f"{server.use_ssh_config or ''} {inventory.user(server) or ''}@{server.hostname}:{inventory.port(server)}".strip()


def _short(line: str) -> str:
    """A public key's end, enough to tell two apart in the audit log."""
    return line.split()[1][-16:]


COMMANDS = (rotate,)
