"""A real systemd host: Debian in a folder under .cache, booted by systemd-nspawn on a throw-away overlay; only for root."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import http.client
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from support import leaks, processes
from support.processes import Process, wait_until
from support.sshd import SERVER_PROGRAMS, KeyPair, free_port

USERS = ("root", "admin", "plain")
"""Who may log in: `admin` has sudo without a password, `plain` has none."""

PACKAGES = (
    *("systemd", "systemd-sysv", "libpam-systemd", "dbus", "openssh-server", "procps", "iproute2"),
    *("nginx-light", "sudo", "cron", "python3"),
)
_PROGRAMS = {"unshare": "util-linux", "debootstrap": "debootstrap", "systemd-nspawn": "systemd-container"}
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_TESTS = Path(__file__).resolve().parents[1]
_SEED = _TESTS / "data" / "systemd_host"
_HOSTS = _TESTS.parent / ".cache" / "hosts"
_BUILD_SECONDS = 600
_BOOT_SECONDS = 90

_ENTER = """
mark=$1
shift
while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done
shift
exec setpriv --pdeathsig TERM prlimit --rss="$mark:" "$@"
"""
"""Becomes another program, in other cgroups and with the mark of a host, and with our own end as its signal to stop."""


class CannotRun(Exception):
    """Why this machine cannot have such a host; tests are skipped with this message."""


@functools.cache
def prepare() -> Path | CannotRun:
    """The folder with the installed system, named by what it is made from; where there is none, that takes a minute."""
    try:
        return _prepare()
    except CannotRun as error:
        return error


def _prepare() -> Path:
    if os.getuid() != 0:
        raise CannotRun("a systemd host needs root")
    for program, package in _PROGRAMS.items():
        if not shutil.which(program, path=_PATH):
            raise CannotRun(f"a systemd host needs {program} (package {package})")
    mirror, suite, components = _mirror()
    recipe = hashlib.sha256("\n".join([suite, components, *PACKAGES]).encode())
    for file in sorted(path for path in _SEED.rglob("*") if path.is_file()):
        recipe.update(f"{file.relative_to(_SEED)}\n".encode() + file.read_bytes())
    folder = _HOSTS / f"debian-{recipe.hexdigest()[:12]}"
    _HOSTS.mkdir(parents=True, exist_ok=True)
    with open(_HOSTS / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            new = _HOSTS / "new"
            if new.exists():
                shutil.rmtree(new)
            new.mkdir()
            (new / "lock").touch()
            _build(new / "root", mirror, suite, components)
            new.rename(folder)
            for old in _HOSTS.glob("debian-*"):
                if old != folder:
                    _remove_unused(old)
    return folder


def _remove_unused(folder: Path) -> None:
    """Remove an older one, but where a host of another test run still has its files."""
    with open(folder / "lock") as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)


def _mirror() -> tuple[str, str, str]:
    """Where this machine has its own packages from: the address, the release, and its components with commas."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release.get("VERSION_CODENAME", "").strip('"')
    ask = [
        "apt-get",
        "indextargets",
        "--no-release-info",
        "--format",
        "$(RELEASE) $(COMPONENT) $(REPO_URI)",
        "Created-By: Packages",
    ]
    try:
        targets = [line.split() for line in subprocess.check_output(ask, text=True).splitlines()]
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotRun(f"a systemd host needs apt's sources of this machine: {error}") from error
    found = [(uri, component) for name, component, uri in targets if name == suite]
    if not found:
        raise CannotRun(f"a systemd host needs apt's sources of this machine; they have none for the release {suite!r}")
    mirror = found[0][0]
    return mirror, suite, ",".join(dict.fromkeys(component for uri, component in found if uri == mirror))


def _build(root: Path, mirror: str, suite: str, components: str) -> None:
    """Install the packages, then copy our own files and run their script there."""
    log = _HOSTS / "build.log"
    packages = f"--include={','.join(PACKAGES)}"
    try:
        with open(log, "wb") as out:
            _run(
                out,
                "debootstrap",
                "--variant=minbase",
                f"--components={components}",
                packages,
                suite,
                str(root),
                mirror,
            )
            _copy(_SEED, root)
            _run(out, "chroot", str(root), "sh", "-eu", "/provision.sh")
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise CannotRun(f"making a systemd host failed: {''.join(last) or error} (all of it: {log})") from error


def _run(out: BinaryIO, *command: str) -> None:
    """Run one part, in a mount namespace of its own: so it can leave no mount behind, however it ends."""
    subprocess.run(
        ["unshare", "--mount", "--propagation=private", *command],
        check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, timeout=_BUILD_SECONDS, umask=0o022,
        env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip


def _copy(source: Path, root: Path) -> None:
    """Copy a tree over another; everybody may read what is new, whatever the umask was that it was checked out with."""
    for path in sorted(source.rglob("*")):
        target = root / path.relative_to(source)
        if path.is_file():
            shutil.copyfile(path, target)
        elif target.is_dir():
            continue
        else:
            target.mkdir()
        target.chmod(0o755 if os.access(path, os.X_OK) else 0o644)


class SystemdHost:
    """One booted host with its own sshd, journal and nginx, all up when the constructor returns.

    Its network is this machine's, its files are the base's with an overlay in memory. Units of ours: `demo-ok.service`,
    `demo-fail.service` (failed, so the system is degraded), `demo-tick.timer`, `demo-echo.socket`. nginx has been visited,
    and its logs have been rotated twice: `/var/log/nginx/access.log`, `.1` and `.2.gz`, and the same for `error.log`.

    Args:
        folder: A folder of its own; created.
        key: Lets in `USERS`.
        keeps_files: It has a copy of the base's files, so that `reboot` finds those that it has then.

    Attributes:
        mark: The mark of all processes of this host (see `support.processes`).
        cgroups: The cgroups above those that its systemd makes.

    Raises:
        CannotRun: This machine permits no such host.
    """

    def __init__(self, folder: Path, key: KeyPair, address: str = "127.0.0.1", *, keeps_files: bool = False) -> None:
        base = prepare()
        if isinstance(base, CannotRun):
            raise base
        self.address = address
        self.port = free_port([address])
        self.http_port = free_port([address])
        self.mark = processes.new_mark()
        self._key = key
        self._console = folder / "console.log"
        etc = folder / "etc"
        etc.mkdir(parents=True)
        etc.chmod(0o755)
        (etc / "sshd.conf").write_text(f"ListenAddress {address}:{self.port}\n")
        (etc / "nginx.conf").write_text(f"listen {address}:{self.http_port};\n")
        (etc / "authorized_keys").write_bytes(key.public.read_bytes())
        for file in etc.iterdir():
            file.chmod(0o644)
        leaks.know(self.mark)
        self.cgroups = _make_cgroups(f"fleetshell-test-{self.mark}")
        self._in_use = open(base / "lock")  # noqa: SIM115  # until the host stops
        fcntl.flock(self._in_use, fcntl.LOCK_SH)
        self._copy = folder / "root" if keeps_files else None
        files = [f"--directory={base / 'root'}", "--read-only", "--volatile=overlay"]
        if self._copy:
            subprocess.run(["cp", "-a", str(base / "root"), str(self._copy)], check=True)
            files = [f"--directory={self._copy}"]
        self._command = [
            *("sh", "-euc", _ENTER, "sh", str(self.mark), *map(str, self.cgroups), "--"),
            *("systemd-nspawn", "--quiet", "--boot", "--console=pipe", "--settings=no", "--register=no", "--keep-unit"),
            *(*files, f"--bind-ro={etc}:/etc/fleetshell"),
            *("--private-users=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
            *(f"--machine=fleetshell-{self.port}", f"--rlimit=RSS={self.mark}"),
        ]
        self._boot()
        try:
            self._wait_for_boot()
            self._visit()
        except BaseException:
            self.stop()
            raise

    def server(self, user: str) -> dict[str, Any]:
        """What a server's file says of this host: `fleet.add("web", **host.server("admin"))`."""
        return {"hostname": self.address, "ssh_port": self.port, "ssh_user": user}

    def run(self, user: str, command: str) -> str:
        """A command's stdout, by the ssh program and not by FleetShell; for what a test needs to prepare."""
        return subprocess.run(
            self._ssh(user, command), check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ).stdout

    def _ssh(self, user: str, command: str) -> list[str]:
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "IdentitiesOnly=yes")
        ssh = ["ssh", "-F", "none", *(f"-o{option}" for option in options), "-i", str(self._key.private)]
        return [*ssh, "-p", str(self.port), f"{user}@{self.address}", command]

    def _wait_for_boot(self) -> None:
        wait_until(self._answers, _BOOT_SECONDS, "sshd of the systemd host answers")
        state = self.run("root", "systemctl is-system-running --wait || true").strip()
        assert state in ("running", "degraded"), f"the systemd host is {state}: {self.console()}"

    def _boot(self) -> None:
        with open(self._console, "wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )

    def get(self, path: str, client: str = "192.0.2.1") -> int:
        """The status that nginx gives a client with that address."""
        connection = http.client.HTTPConnection(self.address, self.http_port, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"X-Real-IP": client, "User-Agent": "demo/1.0"})
            return connection.getresponse().status

    def console(self) -> str:
        """What the host and systemd-nspawn have said so far."""
        return self._console.read_text(errors="replace")

    def remote_processes(self) -> list[Process]:
        """What runs there now on behalf of logins; a service that one has started is the host's own."""
        found = [process for process in processes.alive(self.mark) if process.name not in SERVER_PROGRAMS]
        return [process for process in found if "/session-" in _cgroup_of(process) or "/ssh.s" in _cgroup_of(process)]

    def put(self, source: Path, target: str, mode: str = "644") -> None:
        """Copy a file to the host, as root."""
        with open(source, "rb") as file:
            subprocess.run(self._ssh("root", f"cat >{target} && chmod {mode} {target}"), check=True, stdin=file)

    def reboot(self) -> None:
        """Power it off and boot it again; returns when all is up. Only for one that keeps its files."""
        self._power_off()
        self._boot()
        self._wait_for_boot()

    def stop(self) -> None:
        """Power the host off; what does not end by itself is killed."""
        self._power_off()
        for cgroup in self.cgroups:
            for folder, _, _ in os.walk(cgroup, topdown=False):
                os.rmdir(folder)
        if self._copy:
            shutil.rmtree(self._copy)
        self._in_use.close()

    def _power_off(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        wait_until(lambda: not processes.alive(self.mark), 10, "the systemd host is gone")

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise CannotRun(f"systemd-nspawn could not boot a host here: {self.console().strip()}")
        try:
            with socket.create_connection((self.address, self.port), timeout=10) as connection:
                return connection.recv(4) == b"SSH-"
        except ConnectionError:
            return False

    def _visit(self) -> None:
        """Fill nginx's logs and rotate them twice."""
        for step in range(3):
            if step:
                self.run("root", "demo-rotate")
            for number in range(20):
                path = ("/", f"/item/{number}", "/private/key", "/app/orders?id=17")[number % 4]
                self.get(path, f"192.0.2.{number + 1}")


def _make_cgroups(name: str) -> list[Path]:
    """New cgroups below this process's own, in the hierarchies that systemd uses: its named one of version 1, and version 2.

    Two hosts in one cgroup would take each other's services for their own.
    """
    own = dict(line.split(":", 1)[1].split(":", 1) for line in Path("/proc/self/cgroup").read_text().splitlines())
    made = []
    for kind, folder in _hierarchies():
        if kind in own:
            made.append(folder / own[kind].lstrip("/") / name)
    try:
        for path in made:
            path.mkdir()
    except OSError as error:
        raise CannotRun(f"a systemd host needs cgroups that it may write: {error}") from error
    if not made:
        raise CannotRun("a systemd host needs a cgroup hierarchy of version 2, or systemd's own")
    return made


def _hierarchies() -> Iterator[tuple[str, Path]]:
    """The names that /proc/PID/cgroup has for systemd's hierarchies, and where they are mounted (proc(5))."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where, _, what = line.partition(" - ")
        kind, _, options = what.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            yield "" if kind == "cgroup2" else "name=systemd", Path(where.split()[4])


def _cgroup_of(process: Process) -> str:
    with contextlib.suppress(OSError):
        return Path("/proc", str(process.pid), "cgroup").read_text()
    return ""
