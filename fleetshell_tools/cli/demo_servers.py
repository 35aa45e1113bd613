"""The demo's SSH servers: real sshd processes on loopback, each in a throw-away system of its own where root allows it.

What the isolation protects: every file of this machine (a copy-on-write overlay whose changes go to memory), its processes,
host name, devices, kernel settings and mounts. Home folders, temporary folders, /run with its sockets, SSH's and TLS's private
keys and the password hashes are not even visible. What it does not protect: other files that root can read (they can be read),
the network (needed, so that the relay reaches the servers by loopback), and how much memory and processor time is used.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fleetshell_tools.core.errors import FleetShellError

_TRIES = 5
_PATIENCE = 20.0
_LISTENS = "Server listening on"
_PORT_TAKEN = re.compile(r"Bind to port .* failed: Address already in use")

_ISOLATE = """
set -eu
umask 022
# The first process of a namespace ignores what it does not handle.
trap 'exit 143' TERM
name=$1 folder=$2 sshd=$3 capabilities=$4
shift 4
echo "$name" >/proc/sys/kernel/hostname
mount -t tmpfs -o size=256m,mode=0755 fleetshell-demo "$folder/system"
cd "$folder/system"
mkdir upper work root
# Relative names, because a comma or a colon in a temporary folder's path would end an overlay option.
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work fleetshell-demo root
cd root
cp -R "$folder/files/." .
echo 'root:*:20000:0:99999:7:::' >etc/shadow
chmod 600 etc/shadow
rm -f etc/shadow- etc/gshadow etc/gshadow-
mkdir -p etc/ssh run
mount --bind -o ro "$folder/config" etc/ssh
mount -t proc -o nosuid,nodev,noexec proc proc
# Kernel settings are the whole machine's, in whatever namespace they are written.
for shared in sys sysrq-trigger irq bus fs; do
    [ ! -e "proc/$shared" ] || mount --bind -o ro "proc/$shared" "proc/$shared"
done
# Not the machine's /dev: root could write to its disks there.
mount -t tmpfs -o size=1m,mode=0755 fleetshell-demo dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm dev/machine
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
# A mere chroot could be left by root; after this the machine's own root is not there any more.
pivot_root . dev/machine
cd /
umount -l /dev/machine
rmdir /dev/machine
for hidden in "$@"; do
    [ ! -d "$hidden" ] || mount -t tmpfs -o size=64m,mode=0755 fleetshell-demo "$hidden"
done
chmod 1777 /tmp /var/tmp /dev/shm
mkdir -p /run/sshd
exec setpriv --inh-caps=-all --bounding-set="-all,$capabilities" -- "$sshd" -D -e -f /etc/ssh/sshd_config
"""
"""Makes the throw-away system around itself and becomes its sshd; arguments: name, folder, sshd, capabilities, hidden folders."""

_NAMESPACES = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
_CAPABILITIES = (
    "+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+sys_chroot,+audit_write"
)
"""What root keeps: enough for logins and files; no mounting, no raw devices, no modules, no clock, no network settings."""

_HIDDEN = ("/root", "/home", "/run", "/tmp", "/var/tmp", "/etc/ssl/private")


@dataclass(frozen=True)
class Profile:
    """What a server of the demo is called and what it is there for."""

    id: str
    tags: str
    environment: str
    purpose: str
    log: str

    @property
    def files(self) -> dict[str, str]:
        """What makes this server's file system differ from the machine's."""
        return {"etc/hostname": f"{self.id}\n", "etc/motd": f"{self.purpose}\n", "var/log/shop.log": self.log}


PROFILES = (
    Profile(
        "demo-web-1", "web,shop", "production", "Web server of a shop, first of two",
        "08:00:01 INFO started\n08:14:37 ERROR upstream timed out: GET /cart\n08:14:52 INFO upstream is back\n",
    ),
    Profile(
        "demo-web-2", "web,shop", "production", "Web server of a shop, second of two",
        "08:00:02 INFO started\n08:31:09 WARNING slow answer: GET /search took 2.4 s\n",
    ),
    Profile(
        "demo-db-1", "database,shop", "staging", "Database of the shop's test system",
        "07:59:40 INFO recovery finished\n07:59:41 INFO ready to accept connections\n",
    ),
)  # fmt: skip


@dataclass
class DemoServer:
    """A running server: where it listens, and who logs in."""

    profile: Profile
    folder: Path
    port: int
    user: str
    process: subprocess.Popen[bytes]

    @property
    def authorized_keys(self) -> Path:
        """The file that says who may log in; written when the relay's key is known."""
        return self.folder / "config" / "authorized_keys"

    def stop(self) -> None:
        """End sshd, and in an isolated system everything that runs there; its mounts go with its last process."""
        # The group, because `unshare` ignores SIGTERM. sshd is its namespace's first process: the kernel ends the others
        # with it, and `unshare` returns when that is done.
        for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, None)):
            if self.process.poll() is None:
                os.killpg(self.process.pid, number)
            try:
                self.process.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                continue


class Isolation:
    """Whether the servers can be given systems of their own on this machine; `refusal` says why not."""

    def __init__(self, hidden: list[Path]) -> None:
        self.hidden = list(
            dict.fromkeys([*_HIDDEN, *(os.path.realpath(path) for path in [Path(tempfile.gettempdir()), *hidden])])
        )
        self.refusal = ""
        self._run_sshd = Path("/run/sshd")
        self._made = False
        if os.geteuid() != 0:
            self.refusal = "only root can give them systems of their own"
        missing = [name for name in ("unshare", "mount", "pivot_root", "setpriv") if not shutil.which(name)]
        if missing and not self.refusal:
            self.refusal = f"{', '.join(missing)} of util-linux is missing"

    @property
    def possible(self) -> bool:
        return not self.refusal

    def command(self, profile: Profile, folder: Path, sshd: str) -> list[str]:
        arguments = [profile.id, str(folder), sshd, _CAPABILITIES, *self.hidden]
        return [*_NAMESPACES, "sh", "-c", _ISOLATE, "sh", *arguments]

    def prepare_without(self) -> None:
        """Make the folder that sshd, run by root on the machine itself, insists on."""
        if os.geteuid() == 0 and not self._run_sshd.is_dir():
            self._run_sshd.mkdir(mode=0o755)
            self._made = True

    def clean_up(self) -> None:
        """Remove what `prepare_without` made."""
        if self._made:
            self._run_sshd.rmdir()
            self._made = False


def start(profile: Profile, folder: Path, isolation: Isolation, check: Callable[[], None]) -> DemoServer:
    """Start a server on a free loopback port; it listens when this returns.

    Args:
        folder: A new folder of its own.
        isolation: Where it turns out to be refused, `refusal` is set and the server runs without.
        check: Called while waiting; what it raises ends the wait and the server.

    Raises:
        FleetShellError: sshd or ssh-keygen is missing, or sshd does not start.
    """
    sshd = find_sshd()
    user = pwd.getpwuid(os.geteuid())
    if os.path.basename(user.pw_shell) in ("nologin", "false"):
        raise FleetShellError(
            f"No command can be run over SSH as {user.pw_name}: the account's shell is {user.pw_shell}. Run the demo as another user."
        )
    for name in ("config", "files", "system"):
        (folder / name).mkdir(parents=True)
    for name, text in profile.files.items():
        (folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "files" / name).write_text(text)
    _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", profile.id, "-f", str(folder / "config" / "host_key")])
    log = folder / "sshd.log"
    for _ in range(_TRIES):
        port = _free_port()
        isolated = isolation.possible
        if not isolated:
            isolation.prepare_without()
        seen = "/etc/ssh" if isolated else str(folder / "config")
        (folder / "config" / "sshd_config").write_text(_settings(sshd, port, seen))
        command = (
            isolation.command(profile, folder, sshd) if isolated else [sshd, "-D", "-e", "-f", f"{seen}/sshd_config"]
        )
        with open(log, "wb") as file:
            # A session of its own: Ctrl-C on the terminal is for the demo, which stops everything in order.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd="/", start_new_session=True
            )
        server = DemoServer(profile, folder, port, user.pw_name, process)
        try:
            if _wait_listening(server, log, check):
                return server
        except BaseException:
            server.stop()
            raise
        said = log.read_text(errors="replace").strip()
        if _PORT_TAKEN.search(said):
            continue
        if not isolated:
            raise FleetShellError(f"sshd did not start (exit code {process.returncode}).", seen=said)
        isolation.refusal = f"this system does not allow them systems of their own ({said.splitlines()[-1] if said else 'no reason given'})"
    raise FleetShellError(f"sshd found no free port on 127.0.0.1 in {_TRIES} tries.")


def user_name() -> str:
    """Who logs in to the servers: the user who runs the demo."""
    return pwd.getpwuid(os.geteuid()).pw_name


def find_sshd() -> str:
    """The absolute path of sshd, which re-executes itself by it.

    Raises:
        FleetShellError: sshd, ssh or ssh-keygen is missing; names the packages.
    """
    found = shutil.which(
        "sshd", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    )
    if not found or not shutil.which("ssh") or not shutil.which("ssh-keygen"):
        raise FleetShellError(
            "The demo needs OpenSSH's client and server. Install them (Debian, Ubuntu: `apt install openssh-client openssh-server`)."
        )
    return os.path.abspath(found)


def _wait_listening(server: DemoServer, log: Path, check: Callable[[], None]) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while True:
        ended = server.process.poll() is not None
        if _LISTENS in log.read_text(errors="replace"):
            return True
        if ended:
            return False
        if time.monotonic() > deadline:
            raise FleetShellError(
                f"sshd did not start within {_PATIENCE:g} s.", seen=log.read_text(errors="replace").strip()
            )
        check()
        time.sleep(0.01)


def _settings(sshd: str, port: int, config: str) -> str:
    """The text of sshd_config; `config` is its folder as sshd itself sees it."""
    lines = [
        f"ListenAddress 127.0.0.1:{port}",
        f'HostKey "{config}/host_key"',
        f'AuthorizedKeysFile "{config}/authorized_keys"',
        *("PasswordAuthentication no", "KbdInteractiveAuthentication no", "UsePAM no", "PidFile none"),
        # The demo's folder lies in /tmp, which everybody may write to.
        "StrictModes no",
        "PermitRootLogin prohibit-password",
    ]
    # Since 9.8 an address is locked out after failed or broken-off logins, and all servers see the same one.
    calm = "PerSourcePenalties no"
    tried = subprocess.run(
        [sshd, "-t", "-f", "/dev/null", "-o", calm], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return "\n".join([*lines, *([] if "Bad configuration option" in tried.stderr else [calm]), ""])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise FleetShellError(f"{command[0]} failed with exit code {done.returncode}.", seen=done.stderr.strip())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
