"""A host at the end of a cable that can be pulled: a real sshd in a network namespace of its own; only for root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from support.accounts import need_namespaces
from support.processes import wait_until
from support.sshd import KeyPair, Sshd

_NEAR, _FAR = "198.18.77.1", "198.18.77.2"
"""Of the range that RFC 2544 keeps for tests of networks, so that no packet of ours means anybody else."""


class FarHost:
    """An sshd that is reached over a pair of virtual network cards.

    Args:
        folder: A folder of its own; created.
        key: Lets in.
    """

    def __init__(self, folder: Path, key: KeyPair) -> None:
        need_namespaces("--net")
        if not shutil.which("ip"):
            pytest.skip("needs ip (package iproute2)")
        self._near, self._far = f"fsn{os.getpid()}", f"fsf{os.getpid()}"
        holder = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo up; exec cat"]
        self._holder = subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert self._holder.stdout and self._holder.stdout.readline() == b"up\n"
            inside = str(self._holder.pid)
            self._enter = ["nsenter", f"--net=/proc/{inside}/ns/net"]
            made = _ip(
                "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", inside, check=False
            )
            if made:
                pytest.skip(f"this machine has no virtual network cards: {made}")
            _ip("address", "add", f"{_NEAR}/30", "dev", self._near)
            _ip("link", "set", self._near, "up")
            _ip("address", "add", f"{_FAR}/30", "dev", self._far, within=self._enter)
            self.mend()
            self.sshd = Sshd(folder, key.public, addresses=[_FAR], port=22, wrapper=self._enter)
        except BaseException:
            self._end()
            raise

    def cut(self) -> None:
        """Pull the cable: nothing gets through, and neither side is told."""
        _ip("link", "set", self._far, "down", within=self._enter)

    def mend(self) -> None:
        """Put it back; packets get through again when this returns."""
        _ip("link", "set", self._far, "up", within=self._enter)
        # What did not answer for a while is remembered as not being there.
        wait_until(lambda: not _ip("neighbour", "flush", "dev", self._near) and _reachable(), 20, "the cable works")

    def stop(self) -> None:
        """End the host and what logins have left running there."""
        self.sshd.kill()
        self._end()

    def _end(self) -> None:
        """End the namespace, and with it the cable."""
        _ip("link", "delete", self._near, check=False)
        self._holder.communicate()


def _reachable() -> bool:
    """Whether the far side answers a connection, even by refusing it."""
    try:
        socket.create_connection((_FAR, 22), timeout=0.2).close()
    except ConnectionRefusedError:
        pass
    except OSError:
        return False
    return True


def _ip(*words: str, within: list[str] | None = None, check: bool = True) -> str:
    """Run ip; returns what it complained of."""
    done = subprocess.run([*(within or []), "ip", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        raise AssertionError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stderr.strip() if done.returncode else ""
