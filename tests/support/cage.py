"""Runs commands where they can harm nothing, and tells what they would have destroyed; started as a program by the tests.

Each command runs in a chroot inside mount, process, network and IPC namespaces of its own, without capabilities, with every
destructive program replaced by a stub that writes down its folder and arguments. Nothing is started before all of that stands.

Reads a JSON object {"root": a folder, "commands": [...]} on stdin and writes a JSON list of {"ran": [[folder, program, …]],
"missing": [programs that the chroot has not], "changed": [files], "gone": [files], "timed_out": bool} on stdout. Needs root, bash, Linux.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

_NEWNS, _NEWIPC, _NEWNET, _NEWPID, _NEWUTS = 0x00020000, 0x08000000, 0x40000000, 0x20000000, 0x04000000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 1 << 5, 1 << 12, 1 << 14, 1 << 18
_DROP_BOUNDING, _NO_NEW_PRIVILEGES = 24, 38
_SECONDS = 2
_LIBC = ctypes.CDLL(None, use_errno=True)

REAL = (
    "bash ionice chrt taskset cat echo printf env nice nohup setsid timeout stdbuf xargs find base64 base32 xxd od tr rev tac sort uniq head tail wc cut "
    "ls dirname basename readlink realpath mktemp seq true false test touch mkdir stat id whoami uname date grep sed awk "
    "gzip gunzip zcat tee expr comm paste fold nl getopt which hostname"
).split()
STUBS = (
    "rm rmdir unlink shred dd mkfs mkfs.ext4 mkfs.ext2 mkfs.ext3 mkfs.xfs mkfs.btrfs mkfs.vfat mke2fs mkswap wipefs blkdiscard shutdown "
    "reboot poweroff halt init telinit systemctl kexec kill pkill killall killall5 skill mv cp ln chmod chown chgrp truncate install "
    "userdel deluser passwd usermod chsh fdisk sfdisk sgdisk parted cryptsetup lvremove vgremove pvremove pvcreate zpool zfs mdadm "
    "iptables nft ufw umount crontab docker podman kubectl mysql mariadb psql redis-cli mongo mongosh sqlite3 dropdb dropuser hdparm nvme "
    "badblocks ip ifconfig apt apt-get yum dnf rpm dpkg git rsync tar curl wget ssh at mount swapoff lvreduce vgreduce"
).split()
WRAPPERS = ("sudo", "doas")
_STUB = """#!/usr/bin/bash
{ printf '%s\\0' "$PWD" "${0##*/}" "$@"; printf '\\036'; } >> /record
"""
_QUICK = "#!/usr/bin/bash\n"
"""Nobody needs to wait for a `sleep`."""
_WRAPPER = """#!/usr/bin/bash
while [ $# -gt 0 ]; do
  case $1 in
    --) shift; break;;
    -u|-g|-p|-C|-h|-U) shift 2;;
    -*|*=*) shift;;
    *) break;;
  esac
done
[ $# -gt 0 ] || exec bash
exec "$@"
"""
_START = """command_not_found_handle() { printf '%s\\n' "$1" >> /missing; return 127; }
export -f command_not_found_handle
enable -n kill
"""
_FILES = (
    "etc/passwd etc/shadow etc/group etc/gshadow etc/sudoers etc/fstab etc/hosts etc/hostname etc/crontab etc/ssh/sshd_config "
    "etc/nginx/nginx.conf root/.ssh/authorized_keys home/alice/notes home/alice/.ssh/authorized_keys var/lib/mysql/ibdata1 var/log/syslog "
    "boot/vmlinuz boot/grub/grub.cfg srv/data/a srv/data/b data/a mnt/backup/a opt/app/app proc/sysrq-trigger sys/power/state dev/null "
    "dev/zero dev/random dev/urandom var/tmp/x tmp/y "
    "srv/uploads/a mnt/nas/a mnt/share/a mnt/storage/a mnt/storage/.b export/b media/usb/a var/www/html/index.html root/all-files.txt "
    "var/lib/postgresql/16/main/base/1 home/deploy/.ssh/authorized_keys etc/rc.local etc/sudoers.d/90-cloud proc/1/stat "
    "sys/class/net/eth0 etc/init.d/ssh root/payload var/lib/docker/x var/lib/dpkg/status dev/disk/by-id/x"
).split()

_CONTENTS = {"etc/passwd": "root:x:0:0::/root:/bin/bash\n", "root/.ssh/authorized_keys": "ssh-rsa AAAA admin\n"}
_OLD = 1_600_000_000
"""When every file was changed last, in seconds since the epoch: long ago."""


def build(root: Path) -> None:
    """Make the part of the chroot that stays: programs, their libraries, the stubs."""
    programs = root / "usr" / "bin"
    programs.mkdir(parents=True)
    for name in ("lib", "lib64"):
        (root / "usr" / name).mkdir()
    (root / "usr" / "sbin").symlink_to("bin")
    for name in REAL:
        if found := shutil.which(name, path="/usr/bin:/bin"):
            shutil.copy(os.path.realpath(found), programs / name)
            _copy_libraries(found, root)
    (programs / "sh").symlink_to("bash")
    for name in STUBS:
        _script(programs / name, _STUB)
    _script(programs / "sleep", _QUICK)
    for name in WRAPPERS:
        _script(programs / name, _WRAPPER)


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _copy_libraries(program: str, root: Path) -> None:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    for word in listed.split():
        if word.startswith("/") and os.path.exists(word):
            target = root / "usr" / word.lstrip("/").removeprefix("usr/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copy(os.path.realpath(word), target)


def furnish(root: Path) -> None:
    """Make the part that each command finds anew: a few files of every kind."""
    for name in (
        "etc",
        "root",
        "home",
        "var",
        "boot",
        "srv",
        "data",
        "mnt",
        "opt",
        "proc",
        "sys",
        "dev",
        "tmp",
        "record",
        "missing",
    ):
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
    for stray in root.iterdir():
        if stray.is_file() or stray.is_symlink():
            stray.unlink()
    for name, target in {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}.items():
        (root / name).symlink_to(target)
    for name in _FILES:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_CONTENTS.get(name, f"{name}\n"))
        os.utime(file, (_OLD, _OLD))
    (root / "dev" / "fd").symlink_to("/tmp/no-descriptors")
    (root / "etc" / "start").write_text(_START)


def _snapshot(root: Path) -> dict[str, bytes]:
    found = {}
    for folder in (
        "etc",
        "root",
        "home",
        "dev",
        "proc",
        "sys",
        "var",
        "boot",
        "srv",
        "data",
        "mnt",
        "media",
        "export",
        "opt",
    ):
        for path in (root / folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                found[str(path.relative_to(root))] = path.read_bytes()[:4096]
    return found


_furnished: dict[Path, dict[str, bytes]] = {}


def run(root: Path, command: str) -> dict[str, Any]:
    """Run one command in the cage, which is furnished anew where the command before has left anything behind."""
    if _snapshot(root) != _furnished.get(root):
        furnish(root)
        _furnished[root] = _snapshot(root)
    before = _furnished[root]
    for name in ("record", "missing"):
        (root / name).write_text("")
    child = os.fork()
    if child == 0:
        try:
            _enter(root, command)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(111)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 111:
        raise RuntimeError("the cage could not be closed, so nothing was run")
    after = _snapshot(root)
    record, missing = root / "record", root / "missing"
    records = record.read_bytes().decode(errors="replace").split("\036") if record.exists() else []
    return {
        "ran": [record.rstrip("\0").split("\0") for record in records if record],
        "missing": missing.read_text(errors="replace").split() if missing.exists() else [],
        "changed": sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)),
        "gone": sorted(before.keys() - after.keys()),
        "timed_out": code == 112,
    }


def _enter(root: Path, command: str) -> None:
    """In a child: take new namespaces, and in a grandchild the chroot; then run. Does not return."""
    _check(_LIBC.unshare(_NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS))
    _check(_LIBC.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None))
    programs = str(root / "usr").encode()
    _check(_LIBC.mount(programs, programs, None, _BIND, None))
    _check(_LIBC.mount(None, programs, None, _BIND | _REMOUNT | _READ_ONLY, None))
    inner = os.fork()
    if inner == 0:
        try:
            _become(root)
            os.execve(
                "/usr/bin/bash",
                ["bash", "-c", command + "\nwait\n"],
                {"PATH": "/usr/bin", "HOME": "/root", "BASH_ENV": "/etc/start"},
            )
        finally:
            os._exit(111)

    def give_up(number: int, frame: FrameType | None) -> None:
        # It is the first process of its namespace, so that all others there end with it.
        os.kill(inner, signal.SIGKILL)
        os.waitpid(inner, 0)
        os._exit(112)

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_SECONDS)
    _, status = os.waitpid(inner, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(111 if code == 111 else 0)


def _become(root: Path) -> None:
    """Inside the new namespaces: into the chroot, without capabilities, with limits."""
    os.setsid()
    os.chroot(root)
    os.chdir("/root")
    assert os.getpid() == 1, "not the first process of a namespace of its own"
    assert os.path.exists("/record") and not os.path.exists("/usr/bin/python3"), "not in the chroot"
    null = os.open("/dev/null", os.O_RDONLY)
    sink = os.open("/tmp/output", os.O_WRONLY | os.O_CREAT)
    for number, descriptor in ((0, null), (1, sink), (2, sink)):
        os.dup2(descriptor, number)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for capability in range(64):
        _LIBC.prctl(_DROP_BOUNDING, capability, 0, 0, 0)
    _check(_LIBC.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    asked = json.load(sys.stdin)
    root = Path(asked["root"])
    build(root)
    json.dump([run(root, command) for command in asked["commands"]], sys.stdout)


if __name__ == "__main__":
    main()
