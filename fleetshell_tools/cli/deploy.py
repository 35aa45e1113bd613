"""`deploy`: installs FleetShell on another host through your own ssh, as a service, and prints the client's settings."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fleetshell_tools.cli.bundle import SHEBANG, build
from fleetshell_tools.cli.command import Arg, command
from fleetshell_tools.cli.connect import SYSTEMS, host_name
from fleetshell_tools.core import storage
from fleetshell_tools.core.errors import FleetShellError, UsageError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.text import one_line

_DESTINATION = r"(?:[A-Za-z0-9_][A-Za-z0-9_.@\\-]*@)?[A-Za-z0-9_\[:][A-Za-z0-9_.:%\[\]-]*"

_PROBE = r"""
PATH=$PATH:/usr/sbin:/sbin
for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
  p=$(command -v $p) || continue
  if "$p" -c "import sys, ssl; sys.exit(sys.version_info < (3, 10))" 2>/dev/null; then echo "python=$p"; break; fi
done
for p in ssh ssh-keygen; do command -v $p >/dev/null && echo "$p=1"; done
[ -d /run/systemd/system ] && command -v runuser >/dev/null && command -v useradd >/dev/null && echo system=1
systemctl --user show-environment >/dev/null 2>&1 && echo user=1
if [ "$(id -u)" = 0 ]; then echo sudo=root
elif ! command -v sudo >/dev/null; then echo sudo=
elif sudo -n true 2>/dev/null; then echo sudo=yes
else echo sudo=password; fi
"""

_UPLOAD = 'umask 077; mkdir -p "$HOME/.local/bin"; cat >"$HOME/.local/bin/.fleetshell.new"; chmod 755 "$HOME/.local/bin/.fleetshell.new"'

_FOR_ALL = r"""
new=$1 python=$2
shift 2
id fleetshell >/dev/null 2>&1 || useradd --create-home --shell /bin/bash fleetshell
home=$(getent passwd fleetshell | cut -d: -f6)
cp "$new" /usr/local/bin/.fleetshell.new
rm "$new"
chmod 755 /usr/local/bin/.fleetshell.new
mv /usr/local/bin/.fleetshell.new /usr/local/bin/fleetshell
cd /
runuser -u fleetshell -- env HOME="$home" "$python" /usr/local/bin/fleetshell --home "$home/.fleetshell" init "$@"
"$python" /usr/local/bin/fleetshell --home "$home/.fleetshell" service >/etc/systemd/system/.fleetshell.new 2>/dev/null
mv /etc/systemd/system/.fleetshell.new /etc/systemd/system/fleetshell.service
cp "$home/.fleetshell/certs/cert.pem" "$new.pem"
chmod 644 "$new.pem"
systemctl daemon-reload
systemctl enable fleetshell
systemctl restart fleetshell
"""
"""Run by root: installs the file `$1` for everybody, with a user of its own; the rest is for `init`."""

_FOR_ONE = r"""
new=$1 python=$2 unit=$3
shift 3
mv "$new" "$HOME/.local/bin/fleetshell"
"$python" "$HOME/.local/bin/fleetshell" init "$@"
cp "$HOME/.fleetshell/certs/cert.pem" "$new.pem"
[ -n "$unit" ] || exit 0
mkdir -p "$HOME/.config/systemd/user"
"$python" "$HOME/.local/bin/fleetshell" service --user >"$HOME/.config/systemd/user/fleetshell.service" 2>/dev/null
systemctl --user daemon-reload
systemctl --user enable fleetshell
systemctl --user restart fleetshell
"""


@command(
    "deploy",
    Arg("destination", metavar="USER@HOST", help="where to: what you would give to ssh, an alias of your ~/.ssh/config too"),
    Arg("--port", type=int, metavar="P", help="the SSH port, where it is not the usual one"),
    Arg("--hostname", action="append", default=[], type=host_name, metavar="H",
        help="a name or address under which clients reach that host, for the certificate; may be given several times (default: the host's)"),
    Arg("--user", action="store_true", help="install for the login user alone, even where root or sudo could do it for the whole host"),
    Arg("--client", choices=("claude-desktop", "claude-code"), default="claude-desktop", help="the client whose configuration is printed at the end"),
    Arg("--os", choices=tuple(SYSTEMS), default="linux", help="the client's operating system (default linux)"),
    example="fleetshell deploy admin@relay.example.com",
    own_home=False,
)  # fmt: skip
def deploy(args: argparse.Namespace, home: Home) -> int:
    """Copy FleetShell to a host through your own ssh, make a home there and start it as a service; run again, it upgrades.

    With root or sudo on a host with systemd it runs as the user `fleetshell`, from /usr/local/bin/fleetshell; else as the login
    user, from ~/.local/bin/fleetshell. Prints the configuration for a client.
    """
    if not re.fullmatch(_DESTINATION, args.destination):
        raise UsageError(f'"{one_line(args.destination, 80)}" is no USER@HOST that ssh could be given.')
    with _connected(args.destination, args.port) as host:
        host.check()
        system = host.whole_host and not args.user
        names = args.hostname or [host.real_name()]
        _say(f"Copying FleetShell to {args.destination}")
        host.upload(build())
        _say("Making its home" + (" and its service" if system or host.user_services else ""))
        host.install(names, system=system)
        certificate = host.fetch_certificate(names[0])
        _say(f"What your client needs. The certificate is here now: {certificate}")
        host.fleetshell(
            ["connect-info", "--host", names[0], "--client", args.client, "--os", args.os, "--cert", str(certificate)],
            system=system,
        )
        host.say_the_rest(system=system)
    return 0


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)


@contextlib.contextmanager
def _connected(destination: str, port: int | None) -> Iterator[_Host]:
    """A host, over one connection, so that a password is asked for once."""
    options = [] if port is None else ["-p", str(port)]
    with tempfile.TemporaryDirectory(prefix="fs-", dir="/tmp") as folder:
        shared = ["-o", f"ControlPath={folder}/s", "-o", "ControlMaster=auto", "-o", "ControlPersist=60"]
        host = _Host(destination, [*options, *shared])
        try:
            yield host
        finally:
            subprocess.run(
                ["ssh", *host.options, "-O", "exit", "--", destination], capture_output=True, stdin=subprocess.DEVNULL
            )


@dataclass
class _Host:
    """The host, as ssh reaches it.

    Attributes:
        options: Options of every call of ssh.
    """

    destination: str
    options: list[str]

    def __post_init__(self) -> None:
        self._facts: dict[str, str] = {}

    def check(self) -> None:
        """Find out what is there.

        Raises:
            FleetShellError: What is missing.
        """
        for line in self._run(_PROBE, capture=True).decode("utf-8", "replace").splitlines():
            key, _, value = line.partition("=")
            self._facts[key] = value
        if "python" not in self._facts:
            raise FleetShellError(
                f"{self.destination} has no Python 3.10 or newer. Install it there (Debian, Ubuntu: `apt install python3`)."
            )
        if "ssh" not in self._facts or "ssh-keygen" not in self._facts:
            raise FleetShellError(
                f"{self.destination} has no OpenSSH client, which the relay needs. Install it there (Debian, Ubuntu: `apt install openssh-client`)."
            )

    @property
    def whole_host(self) -> bool:
        """Whether it can be installed for the whole host: systemd, and root or sudo; a password for sudo needs a terminal."""
        return "system" in self._facts and (
            self._facts["sudo"] in ("root", "yes") or (self._facts["sudo"] == "password" and sys.stdin.isatty())
        )

    @property
    def user_services(self) -> bool:
        """Whether the login user has a service manager."""
        return "user" in self._facts

    def real_name(self) -> str:
        """The host's name or address as ssh resolves it: the destination may be an alias."""
        asked = subprocess.run(
            ["ssh", *self.options, "-G", "--", self.destination],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        found = re.search(r"^hostname (\S+)$", asked.stdout, re.MULTILINE)
        name = found[1] if found else self.destination.rpartition("@")[2]
        try:
            return host_name(name)
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"{error}; give --hostname the name under which clients reach that host.") from None

    def upload(self, data: bytes) -> None:
        """Copy the single file, to be started by that host's Python."""
        python = self._facts["python"]
        first = SHEBANG if python.endswith("/python3") else f"#!{python}\n".encode()
        self._run(_UPLOAD, stdin=first + data.removeprefix(SHEBANG))

    def install(self, names: list[str], *, system: bool) -> None:
        """Put the uploaded file in its place, make the home and start the service."""
        hostnames = [word for name in names for word in ("--hostname", name)]
        script = _FOR_ALL if system else _FOR_ONE
        kind = [] if system else ["1" if self.user_services else ""]
        words = [self._facts["python"], *kind, *hostnames]
        self._run(f'new=$HOME/.local/bin/.fleetshell.new\n{self._sudo(system)}sh -euc {shlex.quote(script)} sh "$new" {shlex.join(words)}',
                  terminal=system)  # fmt: skip

    def fleetshell(self, arguments: list[str], *, system: bool) -> None:
        """Run a command of the FleetShell that is installed there now."""
        self._run(f"{self._program(system)} {shlex.join(arguments)}", terminal=system)

    def fetch_certificate(self, name: str) -> Path:
        """Copy the relay's certificate, which is no secret, into the folder in which we are."""
        path = Path(f"fleetshell-{re.sub('[^A-Za-z0-9.-]', '_', name)}.pem").absolute()
        new = '"$HOME/.local/bin/.fleetshell.new.pem"'
        storage.write_atomic(path, self._run(f"cat {new}; rm -f {new}", capture=True), 0o644)
        return path

    def say_the_rest(self, *, system: bool) -> None:
        program = "sudo fleetshell --home ~fleetshell/.fleetshell" if system else "~/.local/bin/fleetshell"
        _say(f"Add servers on {self.destination}, with `{program} add-server`; `{program} status` shows the relay.")
        if not system and self.user_services:
            print(
                "It ends when that login's last session does, unless root allows it to stay: `sudo loginctl enable-linger USER`."
            )
        elif not system:
            print(
                f"There is no systemd for this login, so nothing has been started. Start the relay with `{program} serve`."
            )

    def _program(self, system: bool) -> str:
        python = shlex.quote(self._facts["python"])
        if system:
            return f"{self._sudo(True)}{python} /usr/local/bin/fleetshell --home ~fleetshell/.fleetshell"
        return f'{python} "$HOME/.local/bin/fleetshell"'

    def _sudo(self, system: bool) -> str:
        return "sudo " if system and self._facts["sudo"] != "root" else ""

    def _run(self, script: str, *, stdin: bytes | None = None, capture: bool = False, terminal: bool = False) -> bytes:
        """Run a script of ours there, whatever the login shell is.

        Args:
            terminal: sudo may ask for a password.

        Raises:
            FleetShellError: It failed; what it said was shown.
        """
        asks = ["-t"] if terminal and self._facts.get("sudo") == "password" else []
        command = ["ssh", *self.options, *asks, "--", self.destination, f"exec sh -euc {shlex.quote(script.strip())}"]
        try:
            if stdin is not None:
                run = subprocess.run(command, input=stdin)
            else:
                run = subprocess.run(
                    command, stdout=subprocess.PIPE if capture else None, stdin=None if asks else subprocess.DEVNULL
                )
        except FileNotFoundError:
            raise FleetShellError(
                "ssh is not installed here. Install it (Debian, Ubuntu: `apt install openssh-client`)."
            ) from None
        if run.returncode == 255:
            raise FleetShellError(f"ssh could not reach {self.destination}, or lost it; what it said stands above.")
        if run.returncode != 0:
            raise FleetShellError(
                f"That failed on {self.destination} (exit code {run.returncode}); what was said stands above. Deploy again once it is mended."
            )
        return run.stdout or b""


COMMANDS = (deploy,)
