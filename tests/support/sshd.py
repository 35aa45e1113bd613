"""A real OpenSSH server on loopback for tests, run by root or by an ordinary user; logins are the user who runs the tests."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import leaks, processes
from support.processes import Process, wait_until

SERVER_PROGRAMS = frozenset({"sshd", "sshd-session", "sshd-auth"})
_TRIES = 10
_BOUND = re.compile(r"^(?:Server listening on|error: Bind to port|Bind to port)", re.MULTILINE)


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key made by ssh-keygen; `public` serves as an authorized_keys file as it is."""

    private: Path
    public: Path


def make_key(path: Path) -> KeyPair:
    """Make a key pair without a passphrase, in place of the one at `path`, if any."""
    pair = KeyPair(path, path.with_name(f"{path.name}.pub"))
    for file in (pair.private, pair.public):
        file.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fleetshell test", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return pair


def find_sshd() -> str:
    """The absolute path of sshd (it re-executes itself by it); skips the test where there is none."""
    found = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if not found or not shutil.which("ssh-keygen"):
        pytest.skip("needs a real sshd and ssh-keygen: install the packages openssh-server and openssh-client")
    return str(Path(found).absolute())


@functools.cache
def _settings_of_newer_versions(program: str) -> list[str]:
    """OpenSSH 9.8 locks an address out after some failed logins, and all tests come from one; before, that is an error."""
    setting = "PerSourcePenalties no"
    tried = subprocess.run([program, "-t", "-f", "/dev/null", "-o", setting], capture_output=True, text=True)
    return [] if "Bad configuration option" in tried.stderr else [setting]


class Sshd:
    """One daemon, listening when the constructor returns.

    Args:
        folder: A folder of its own for the host key, the configuration and the log; created.
        authorized_keys: Who may log in.
        addresses: Loopback addresses to listen on, at most 16 (sshd's own limit), all on one `port`.
        max_sessions: Sessions on one connection (sshd's default is 10).
        extra: Lines for sshd_config; they win over the lines of this class.
        shared: It outlives the test that starts it, so the leak check knows its processes (but not what runs in sessions).
        port: Where to listen; 0 is a port that is free here.
        wrapper: A command that becomes sshd (by `exec`, so that its process id stays), perhaps in a namespace of its own.

    Attributes:
        token: The value of FLEETSHELL_TEST_REMOTE in the environment of every remote command.
        mark: The mark of all processes of this daemon (see `support.processes`).
    """

    def __init__(
        self,
        folder: Path,
        authorized_keys: Path,
        *,
        addresses: Sequence[str] = ("127.0.0.1",),
        max_sessions: int = 10,
        extra: Sequence[str] = (),
        shared: bool = False,
        port: int = 0,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.program = find_sshd()
        self._wrapper = tuple(wrapper)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
        self.addresses = tuple(addresses)
        self.address = self.addresses[0]
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.port = port
        self.mark = processes.new_mark()
        if shared:
            leaks.know(self.mark, SERVER_PROGRAMS)
        self._log = folder / "sshd.log"
        self._config = folder / "sshd_config"
        self._key = make_key(folder / "host_key")
        home = folder / "home"
        home.mkdir(exist_ok=True)
        self._settings = [
            *extra,
            f"HostKey {self._key.private}",
            f"AuthorizedKeysFile {authorized_keys}",
            f"MaxSessions {max_sessions}",
            # An empty home: the start-up files of the user who runs the tests may cost more than all else.
            f"SetEnv FLEETSHELL_TEST_REMOTE={self.token} HOME={home}",
            *("StrictModes no", "UsePAM no", "PidFile none"),
            *("PasswordAuthentication no", "KbdInteractiveAuthentication no"),
            *_settings_of_newer_versions(self.program),
        ]
        self._listener: subprocess.Popen[bytes] | None = None
        if port:
            self.start()
        else:
            self._listen_on_a_free_port()

    @property
    def token(self) -> str:
        return str(self.mark)

    @property
    def host_key(self) -> str:
        """The host key as `ssh-ed25519 AAAA…`."""
        return " ".join(self._key.public.read_text().split()[:2])

    @property
    def host_key_line(self) -> str:
        """A line for a known_hosts file that covers every address."""
        return f"{','.join(f'[{address}]:{self.port}' for address in self.addresses)} {self.host_key}"

    def log(self) -> str:
        """All that the daemon and its sessions have logged so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def remote_processes(self) -> list[Process]:
        """What runs on this "host" now on behalf of logins: remote commands and all that they started."""
        return [process for process in processes.alive(self.mark) if process.name not in SERVER_PROGRAMS]

    def change_host_key(self) -> None:
        """Restart on the same port with a new host key; sessions that are open stay, as they do on a real host."""
        self._stop_listener()
        self._key = make_key(self._key.private)
        self.start()

    def start(self) -> None:
        """Come back after `stop` or `kill`, on the same port and with the same host key."""
        if not self._start():
            raise AssertionError(f"another program took port {self.port} from sshd: {self.log()}")

    def stop(self) -> None:
        """Stop listening and cut every connection; what a remote command left running stays, for the leak check to find."""
        self.thaw()
        self._stop_listener()
        self._wait_killed(lambda process: process.name in SERVER_PROGRAMS)

    def kill(self) -> None:
        """Die like a host that lost its power: the daemon, its sessions and all remote commands, by SIGKILL."""
        self._wait_killed(lambda process: True)
        self._stop_listener()

    def freeze(self) -> None:
        """Hang like a host that swaps itself to death: the kernel still takes connections, but nothing answers."""
        wait_until(lambda: not self._signal(signal.SIGSTOP, lambda process: process.state != "T"), 10, "sshd stopped")

    def thaw(self) -> None:
        """Go on after `freeze`."""
        wait_until(lambda: not self._signal(signal.SIGCONT, lambda process: process.state == "T"), 10, "sshd going on")

    def _wait_killed(self, whom: Callable[[Process], bool]) -> None:
        wait_until(lambda: not self._signal(signal.SIGKILL, whom), 10, "processes of sshd gone")

    def _signal(self, number: signal.Signals, whom: Callable[[Process], bool]) -> list[Process]:
        """Send a signal to those of this daemon's processes; called until it returns none, as they fork meanwhile."""
        found = [process for process in processes.alive(self.mark) if whom(process)]
        if number == signal.SIGCONT:
            # A shell that went on before its child would see a stopped job, and put it into the background.
            found.reverse()
        processes.signal_all(found, number)
        return found

    def _listen_on_a_free_port(self) -> None:
        for _ in range(_TRIES):
            self.port = free_port(self.addresses)
            if self._start():
                return
        raise AssertionError(f"sshd found no free port in {_TRIES} tries: {self.log()}")

    def _start(self) -> bool:
        """Start the listener and wait until it listens everywhere; False where another program was quicker to take the port.

        Raises:
            AssertionError: sshd did not start for another reason; the message holds its log.
        """
        listen = [f"ListenAddress {address}:{self.port}" for address in self.addresses]
        self._config.write_text("\n".join([*self._settings, *listen, ""]))
        before = len(self.log())
        with self._log.open("ab") as log:
            command = [*self._wrapper, self.program, "-D", "-e", "-f", str(self._config)]
            self._listener = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
        listener = self._listener
        processes.set_mark(listener.pid, self.mark)
        try:
            wait_until(
                lambda: len(_BOUND.findall(self.log()[before:])) == len(self.addresses) or listener.poll() is not None,
                20,
                "sshd listening",
            )
        except BaseException:
            self._stop_listener()
            raise
        news = self.log()[before:]
        if "Bind to port" in news:
            self._stop_listener()
            return False
        if listener.poll() is not None:
            raise AssertionError(f"sshd ended at once with {listener.returncode}: {news}")
        return True

    def _stop_listener(self) -> None:
        if self._listener is None:
            return
        self._listener.terminate()
        try:
            self._listener.wait(10)
        except subprocess.TimeoutExpired:
            self._listener.kill()
            self._listener.wait()
        self._listener = None


def free_port(addresses: Sequence[str]) -> int:
    """A port that is free on every address, below the range from which the kernel takes the ports of outgoing connections."""
    while True:
        port = random.randint(20000, 32000)
        with contextlib.ExitStack() as stack:
            try:
                for address in addresses:
                    stack.enter_context(socket.socket()).bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
        return port
