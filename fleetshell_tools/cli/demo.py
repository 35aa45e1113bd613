"""`demo`: the whole of FleetShell on this machine, with throw-away servers, a throw-away home and a real MCP client."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from fleetshell_tools.cli import demo_client, demo_servers
from fleetshell_tools.cli.auth import totp_block
from fleetshell_tools.cli.command import Arg, command
from fleetshell_tools.cli.demo_client import Access, Plan
from fleetshell_tools.cli.demo_servers import DemoServer, Isolation
from fleetshell_tools.cli.demo_story import Story, expect
from fleetshell_tools.core import config as configuration
from fleetshell_tools.core.errors import FleetShellError, UsageError
from fleetshell_tools.core.home import Home

_SERVES = re.compile(r"serves (https://\S+:(\d+)/mcp)")
_COMMAND_SECONDS = 60
_START_SECONDS = 30

ISOLATED = (
    "Each server is a throw-away system: root in a mount, process and host-name namespace of its own, on a copy-on-write view of this "
    "machine's files without the home folders. Whatever happens there is gone at the end. Only the network, the processor and the "
    "memory are this machine's own."
)


class Interrupts:
    """Signals that end the demo, as a note that is looked at where it can stop, so that none of them leaves anything behind."""

    def __init__(self) -> None:
        self._noted = False
        self._stop: Callable[[], None] | None = None

    def __enter__(self) -> Interrupts:
        numbers = [signal.SIGINT, signal.SIGTERM]
        # Under `nohup` the terminal's end is to be survived.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
        if self._stop:
            self._stop()

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal has come."""
        if self._noted:
            raise KeyboardInterrupt

    def forget(self) -> None:
        """Count the signals until now as obeyed."""
        self._noted = False

    @contextlib.contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """A stretch during which a signal calls `stop`; one that has come before counts too."""
        self._stop = stop
        try:
            self.check()
            yield
        finally:
            self._stop = None


@command(
    "demo",
    Arg(
        "--keep",
        action="store_true",
        help="leave everything running until Ctrl-C and print the configuration for a client",
    ),
    example="fleetshell demo",
)
def demo(args: argparse.Namespace, home: Home) -> int:
    """Try everything with throw-away servers on this machine: a temporary home, the relay with TLS and TOTP, and a real MCP client."""
    demo_client.require_sdk()
    demo_servers.find_sshd()
    story = Story()
    isolation = Isolation([home.path])
    try:
        with Interrupts() as interrupts, ExitStack() as cleaning:
            print(
                "FleetShell's demo: three SSH servers, a relay and an MCP client, all on this machine and all thrown away at the end."
            )
            folder = Path(tempfile.mkdtemp(prefix="fleetshell-demo-"))
            cleaning.callback(shutil.rmtree, folder)
            cleaning.callback(_end_leftovers, folder)
            cleaning.callback(isolation.clean_up)
            Demo(folder, isolation, story, interrupts, cleaning).everything(keep=args.keep)
    except KeyboardInterrupt:
        print("\nfleetshell: the demo was interrupted; everything is cleaned up.", file=sys.stderr)
        return 130
    print(f"\nDemo finished: {story.steps} steps, everything is cleaned up.")
    return 0


class Demo:
    """One run; everything that is started is registered in `cleaning` at once."""

    def __init__(
        self, folder: Path, isolation: Isolation, story: Story, interrupts: Interrupts, cleaning: ExitStack
    ) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self.isolation = isolation
        self.story = story
        self.interrupts = interrupts
        self.cleaning = cleaning

    def everything(self, keep: bool) -> None:
        servers = self._start_servers(keep)
        self._make_home()
        self._register(servers)
        url = self._serve()
        self._use(url, [server.profile.id for server in servers])
        self._audit()
        if keep:
            self._keep()

    def _start_servers(self, keep: bool) -> list[DemoServer]:
        if not self.isolation.possible:
            self._warn(keep)
        servers: list[DemoServer] = []
        for profile in demo_servers.PROFILES:
            possible = self.isolation.possible
            server = demo_servers.start(profile, self.folder / profile.id, self.isolation, self.interrupts.check)
            self.cleaning.callback(server.stop)
            servers.append(server)
            if possible and not self.isolation.possible:
                self._warn(keep)
        self.story.step("Three throw-away SSH servers are running")
        if self.isolation.possible:
            self.story.say(ISOLATED)
        for server in servers:
            self.story.reply(f"{server.profile.id:<11} 127.0.0.1:{server.port:<6} {server.profile.purpose}")
        return servers

    def _warn(self, keep: bool) -> None:
        user = demo_servers.user_name()
        if keep:
            raise UsageError(
                f"--keep is refused: {self.isolation.refusal}, so the demo's servers would be this machine itself under the account {user}, "
                "and a model that is connected to them could do harm. Run `fleetshell demo --keep` as root on a system that allows namespaces."
            )
        self.story.say(
            f"NOTE: the three servers are this machine itself under the account {user}, because {self.isolation.refusal}. What the demo runs "
            f"there is harmless. What this forbids: logging in as anybody but {user}"
            f"{'' if os.geteuid() == 0 else ', everything that needs root (other accounts, restarting services)'}, changing anything without "
            "changing this machine, and --keep."
        )

    def _make_home(self) -> None:
        self.story.step("A temporary home: SSH key, certificate, API key and TOTP secret")
        self._fleetshell("init", "--hostname", "localhost", lines=0)
        found = ", ".join(sorted(path.name for path in self.home.path.iterdir() if not path.name.startswith(".")))
        self.story.reply(f"made: {found}")

    def _register(self, servers: list[DemoServer]) -> None:
        self.story.step("The relay's public key is let in by each server, and each server is registered")
        self.story.sent("fleetshell pubkey    (appended to authorized_keys on each server)")
        key = (self.home.path / "relay.pub").read_text()
        for server in servers:
            server.authorized_keys.write_text(key)
        for server in servers:
            about = server.profile
            self._fleetshell(
                *("add-server", "--id", about.id, "--hostname", "127.0.0.1", "--port", str(server.port), "--user", server.user),
                *("--tags", about.tags, "--env", about.environment, "--purpose", about.purpose),
                lines=9 if server is servers[0] else 2,
            )  # fmt: skip

    def _serve(self) -> str:
        """Start the relay; returns its address."""
        self.story.step("The relay is started, with TLS and TOTP")
        arguments = ["serve", "--host", "127.0.0.1", "--port", "0"]
        self.story.sent(f"fleetshell {' '.join(arguments)}")
        log = self.folder / "serve.log"
        with open(log, "wb") as file:
            relay = subprocess.Popen(
                [*_program(), "--home", str(self.home.path), *arguments],
                env=_environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        self.cleaning.callback(_stop_relay, relay)
        deadline = time.monotonic() + _START_SECONDS
        while not (found := _SERVES.search(log.read_text(errors="replace"))):
            if relay.poll() is not None or time.monotonic() > deadline:
                raise FleetShellError("The demo's relay did not start.", seen=log.read_text(errors="replace").strip())
            self.interrupts.check()
            time.sleep(0.01)
        # What `connect-info` prints later comes from the configuration.
        configuration.set_value(self.home.config_file, "relay.http.port", int(found[2]))
        self.story.reply(f"listening on {found[1]}")
        return f"https://127.0.0.1:{found[2]}/mcp"

    def _use(self, url: str, servers: list[str]) -> None:
        import pyotp

        config = self.home.config()
        access = Access(
            url,
            self.home.file(config.relay.http.cert_file),
            config.relay.http.auth.api_key,
            lambda: str(pyotp.TOTP(config.mfa.totp_secret).now()),
        )
        isolated = self.isolation.possible
        plan = Plan(
            servers,
            command="uname -n && tail -n 3 /var/log/shop.log" if isolated else "uname -n && id -un",
            # Where a server is this machine itself, even a guard with a fault must not let harm be done: there is no such device.
            dangerous="rm -rf /" if isolated else "mkfs.ext4 /dev/disk/by-label/fleetshell-demo",
        )
        try:
            demo_client.drive(access, plan, self.story, self.interrupts.stopping)
        finally:
            # Broken off, the SDK may fail in any way; what counts is that a signal has come.
            self.interrupts.check()

    def _audit(self) -> None:
        self.story.step("All of this is in the audit log, whose chain would show any later change")
        self._fleetshell("audit", "-n", "6")
        self._fleetshell("audit", "verify")

    def _keep(self) -> None:
        self.story.step("Everything keeps running, for a client of yours")
        print(totp_block(self.home.config().mfa.totp_secret))
        print()
        self.story.say(
            "For a client on this machine, which can read the certificate where it is: there is nothing to copy."
        )
        certificate = self.home.file(self.home.config().relay.http.cert_file)
        print(self._fleetshell("connect-info", "--host", "127.0.0.1", "--cert", str(certificate), lines=0).strip())
        print("\nThe servers and the relay run until you press Ctrl-C here; then everything is removed.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                self.interrupts.check()
                time.sleep(0.1)
        print("\nStopping.", flush=True)
        self.interrupts.forget()

    def _fleetshell(self, *arguments: str, lines: int = 9) -> str:
        """Run a command of FleetShell on the demo's home and show `lines` lines of its output; returns all of it.

        Raises:
            FleetShellError: It failed.
        """
        self.interrupts.check()
        self.story.sent(f"fleetshell {' '.join(f'{word!r}' if ' ' in word else word for word in arguments)}")
        command = [*_program(), "--home", str(self.home.path), *arguments]
        try:
            # In a session of its own, so that Ctrl-C does not break it off half-way; it is short.
            done = subprocess.run(
                command, env=_environment(), capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
                timeout=_COMMAND_SECONDS, start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise FleetShellError(f"`fleetshell {arguments[0]}` did not end within {_COMMAND_SECONDS} s.") from None
        if lines:
            self.story.reply(done.stdout, lines)
        expect(
            done.returncode == 0,
            f"`fleetshell {arguments[0]}` succeeds (it ended with {done.returncode})",
            done.stdout + done.stderr,
        )
        return done.stdout


def _program() -> list[str]:
    return [sys.executable, "-m", "fleetshell"]


def _environment() -> dict[str, str]:
    """The environment in which `_program` finds the FleetShell that is running now, installed or not."""
    root = str(Path(__file__).absolute().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def _stop_relay(relay: subprocess.Popen[Any]) -> None:
    if relay.poll() is None:
        relay.terminate()
    try:
        relay.wait(20)
    except subprocess.TimeoutExpired:
        relay.kill()
        relay.wait()


def _end_leftovers(folder: Path) -> None:
    """End what works inside the demo's folder: a relay that crashed would have left its SSH connections there."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if f"{os.readlink(entry / 'cwd')}/".startswith(f"{folder}/"):
                os.kill(int(entry.name), signal.SIGKILL)


COMMANDS = (demo,)
