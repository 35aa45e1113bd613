"""A minimal host: dropbear and busybox in a folder of their own, which they take for the whole machine; only for root."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from support import processes
from support.accounts import need_namespaces
from support.processes import Process, wait_until
from support.sshd import KeyPair, free_port

_ENTER = """
mount -t proc none "$1/proc"
mount --rbind /dev "$1/dev"
exec chroot "$1" /bin/dropbear -F -E -s -p "$2" -r /etc/host_key
"""
_FILES = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shells": "/bin/sh\n",
}
_FOLDERS = ("bin", "etc", "proc", "dev", "root/.ssh", "tmp", "var/log")


class MinimalHost:
    """One dropbear, answering when the constructor returns; the login is root, and all its programs are busybox.

    Args:
        folder: A folder of its own; created.
        key: Lets in.

    Attributes:
        mark: The mark of all processes of this host (see `support.processes`).
    """

    user = "root"

    def __init__(self, folder: Path, key: KeyPair, address: str = "127.0.0.1") -> None:
        need_namespaces("--mount", "--pid", "--fork")
        self.root = folder / "root"
        self.address = address
        self.port = free_port([address])
        self.mark = processes.new_mark()
        self._log = folder / "dropbear.log"
        self._build(key)
        # Marked by a program, not by us: the one that becomes the host's first process is there before we could do it.
        command = [
            *("prlimit", f"--rss={self.mark}:", "unshare", "--mount", "--pid", "--fork", "--kill-child"),
            *("sh", "-euc", _ENTER, "sh", str(self.root), f"{address}:{self.port}"),
        ]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until(self._answers, 20, "dropbear answers")
        except BaseException:
            self.stop()
            raise

    def remote_processes(self) -> list[Process]:
        """What runs there on behalf of logins."""
        own = {"dropbear", "unshare"}
        return [process for process in processes.alive(self.mark) if process.name not in own]

    def stop(self) -> None:
        """End the host and all that runs there."""
        self._process.kill()
        self._process.wait()
        wait_until(lambda: not processes.alive(self.mark), 10, "the minimal host is gone")

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"dropbear ended with {self._process.returncode}: {self._log.read_text()}")
        try:
            with socket.create_connection((self.address, self.port), timeout=10) as connection:
                return connection.recv(4) == b"SSH-"
        except ConnectionError:
            return False

    def _build(self, key: KeyPair) -> None:
        programs = {name: shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") for name in ("dropbear", "busybox")}
        if None in programs.values() or not shutil.which("dropbearkey"):
            pytest.skip("needs dropbear (package dropbear-bin) and busybox (package busybox-static)")
        for made in _FOLDERS:
            (self.root / made).mkdir(parents=True)
        (self.root / "root" / ".ssh").chmod(0o700)
        for name, text in {**_FILES, "root/.ssh/authorized_keys": key.public.read_text()}.items():
            (self.root / name).write_text(text)
        for name, path in programs.items():
            shutil.copy(str(path), self.root / "bin" / name)
            for library in libraries(str(path)):
                target = self.root / library.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, target)
        for applet in subprocess.check_output([self.root / "bin" / "busybox", "--list"], text=True).split():
            if not (self.root / "bin" / applet).exists():
                (self.root / "bin" / applet).symlink_to("busybox")
        make = ["dropbearkey", "-t", "ed25519", "-f", str(self.root / "etc" / "host_key")]
        subprocess.run(make, check=True, capture_output=True)


def libraries(program: str) -> list[str]:
    """The shared libraries that a program loads; none where it is static."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True)
    return re.findall(r"/\S+", listed.stdout) if listed.returncode == 0 else []
