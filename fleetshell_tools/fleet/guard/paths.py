"""Which paths a host cannot lose: normalised targets, wildcards matched against critical names.

`/var` is critical and `/var/tmp/x` is not: what counts is the whole of a folder, or a file that the system needs.
"""

from __future__ import annotations

import re

from fleetshell_tools.fleet.guard.symbols import (
    BRACKET,
    MARKS,
    QUESTION,
    STAR,
    UNKNOWN,
    UNSET,
    empty_unset,
    has_wildcard,
    is_known,
    matches,
)

_SYSTEM = """
bin boot dev etc home lib lib32 lib64 libx32 libexec opt proc root run sbin srv sys usr var
boot/efi boot/grub boot/grub2 boot/loader lib/modules lib/systemd lib/x86_64-linux-gnu root/.ssh
etc/ssh etc/systemd etc/pam.d etc/network etc/netplan etc/init.d etc/sudoers.d etc/security etc/default etc/apt
usr/bin usr/sbin usr/lib usr/lib32 usr/lib64 usr/libexec usr/local usr/share usr/include
var/lib var/log var/spool var/spool/mail var/vmail var/mail var/www var/backups usr/lib/systemd usr/lib/modules usr/lib/x86_64-linux-gnu
run/systemd usr/lib/aarch64-linux-gnu lib/aarch64-linux-gnu usr/local/bin usr/local/lib usr/local/sbin var/lib/dpkg var/lib/rpm var/lib/systemd var/spool/cron
"""
_DATA = """
home/* home/*/.ssh var/lib/mysql var/lib/postgresql var/lib/docker var/lib/mongodb var/lib/containerd var/lib/etcd
var/lib/kubelet var/lib/libvirt
"""
_FILES = """
etc/passwd etc/shadow etc/group etc/gshadow etc/sudoers etc/fstab etc/crypttab etc/inittab etc/nsswitch.conf
etc/ld.so.cache etc/machine-id etc/default/grub etc/ssh/sshd_config boot/grub/grub.cfg
lib64/ld-linux* lib/ld-linux* usr/lib64/ld-linux* usr/lib/ld-linux* lib/x86_64-linux-gnu/ld-linux* usr/lib/x86_64-linux-gnu/ld-linux*
lib/aarch64-linux-gnu/libc.so* usr/lib/aarch64-linux-gnu/libc.so* usr/lib/aarch64-linux-gnu/ld-linux* lib64/libc.so* usr/lib64/libc.so* lib/ld-musl*
boot/vmlinuz boot/initrd.img usr/bin/python3 usr/bin/perl usr/bin/apt usr/bin/apt-get usr/bin/dpkg usr/bin/rpm usr/bin/dnf usr/bin/yum
usr/bin/passwd usr/bin/chmod usr/bin/cp usr/bin/mv bin/rm bin/chmod usr/bin/mount usr/bin/login usr/bin/su usr/bin/ls bin/cp bin/mv bin/cat usr/bin/cat usr/bin/rm lib/systemd/systemd usr/lib/systemd/systemd sbin/init usr/sbin/init
bin/sh bin/bash bin/dash bin/ls bin/mount bin/login bin/su usr/bin/sh usr/bin/bash usr/bin/dash usr/bin/env usr/bin/sudo
usr/bin/systemctl bin/systemctl usr/sbin/sshd lib/x86_64-linux-gnu/libc.so* usr/lib/x86_64-linux-gnu/libc.so*
root/.ssh/authorized_keys home/*/.ssh/authorized_keys var/lib/dpkg/status var/lib/rpm/rpmdb.sqlite var/lib/rpm/Packages
var/lib/mysql/ibdata1
"""


class Table:
    """Critical names: whole ones, and in files those with a version at the end (`ld-linux*`)."""

    def __init__(self, names: str) -> None:
        self.names = frozenset(names.split())
        self.beginnings = tuple(name[:-1] for name in self.names if name.endswith("*") and not name.endswith("/*"))
        self.by_depth: dict[int, list[list[str]]] = {}
        for name in self.names:
            parts = name.rstrip("*").split("/") if not name.endswith("/*") else name.split("/")
            self.by_depth.setdefault(len(parts), []).append(parts)


_SYSTEM_FOLDERS = Table(_SYSTEM)
_CRITICAL_FOLDERS = Table(_SYSTEM + _DATA)
_CRITICAL_FILES = Table(_FILES)

_STARTUP = re.compile(
    r"/etc/(?:crontab|anacrontab|cron\.[a-z]+/.+|(?:systemd|init\.d|rc\.d|rc[0-9S]\.d|runlevels|conf\.d|local\.d|init)/.+|rc\.local|inittab"
    r"|ld\.so\.(?:preload|conf|conf\.d/.+)|(?:pam\.d|security(?!/limits)|sudoers\.d|profile\.d|ssh/sshd_config\.d|grub\.d|default/grub\.d)/.+"
    r"|(?:modules|modprobe\.d/.+|modules-load\.d/.+|udev/rules\.d/.+)|profile|bash\.bashrc|bashrc|environment|shells|login\.defs|nologin"
    r"|zsh/.+|csh\.(?:login|cshrc))"
    r"|/var/spool/(?:cron|at)/.+|/boot/.+|(?:/usr)?/lib(?:64)?/(?:[^/]+/)?security/.+|(?:/usr)?/lib/systemd/.+|(?:/usr)?/lib/udev/rules\.d/.+|/run/systemd/.+"
    r"|(?:/root|/home/[^/]+)/(?:\.ssh/(?:authorized_keys2?|rc|environment)|\.pam_environment|\.config/(?:systemd|autostart|fish)/.+"
    r"|\.(?:profile|bash_profile|bash_login|bashrc|bash_logout|zshrc|zshenv|zprofile|zlogin|kshrc|login|cshrc|tcshrc))"
)
"""Files of login, boot, cron, units and the loader."""

_NO_DISK = re.compile(
    r"/dev/(?:null|zero|full|u?random|hwrng|tty.*|pts/.*|ptmx|std(?:in|out|err)|fd/.*|shm/.*|mqueue/.*|hugepages/.*|tcp/.*|udp/.*"
    r"|log|kmsg|console|net/.*|input/.*|uinput|snd/.*|dri/.*|fuse|kvm|rtc.*|mapper/control|loop.*|ram\d+|zram\d+|lp\d+|usb/.*|fb\d+"
    r"|n?st\d+[alm]?|nst\d+|nrst\d+|video.*|vhost.*|tpm.*|nvidia.*|i2c.*|gpiochip.*|initctl|cpu_dma_latency)"
)
"""What in /dev holds no data; everything else there is taken for a disk, whatever a volume group or a vendor calls it."""

_DATA_ROOTS = frozenset(
    "srv mnt media data backup backups export exports storage volumes volume nfs share shares archive pool tank shared".split()
)
_HOLDING = _DATA_ROOTS | {"opt", "var"}
_KEPT = _DATA_ROOTS | frozenset(
    "db database databases mysql postgres postgresql pgdata mongo mongodb uploads prod production git repos mail vmail www home "
    "customers clients users".split()
)
_MOUNTS = frozenset(["mnt", "media"])
_DATA_BELOW = frozenset(["var/www", "var/lib", "var/backups", "var/spool", "var/mail", "run/media", "var/opt"])
_STORES = frozenset(
    "mysql postgresql pgsql mongodb mongo redis influxdb elasticsearch opensearch clickhouse cassandra docker containerd etcd "
    "kubelet libvirt rancher jenkins gitlab rabbitmq kafka zookeeper minio vault consul prometheus grafana ldap".split()
)
_DATABASES = frozenset(
    "mysql postgresql pgsql mongodb mongo redis influxdb elasticsearch opensearch clickhouse cassandra etcd ldap".split()
)
_PASSING = re.compile(
    r"cache|te?mp|log|build|dist|trash|old|test|node_modules|target|\A\.|scratch|staging", re.IGNORECASE
)
"""Folders whose content is made again, or is meant to be thrown away."""


def resolve(target: str, folder: str) -> str:
    """An absolute path without `.`, `..` and repeated slashes, or empty where its start cannot be known."""
    target = empty_unset(target)
    if not target or target[0] in MARKS:
        return ""
    path = target if target.startswith("/") else f"{folder}/{target}"
    if not path.startswith("/"):
        return ""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def is_critical_folder(target: str, folder: str) -> bool:
    """Is this a folder that the host needs as a whole (a home folder too), or everything inside one?"""
    parts = _folder_parts(target, folder)
    if parts is None:
        return False
    # A relative path such as ../build may seem to name a neighbour's home only because we assume where we are.
    if len(parts) == 2 and parts[0] == "home" and not target.startswith("/") and "/" + "/".join(parts) != folder:
        return False
    return not parts or _in_table(parts, _CRITICAL_FOLDERS)


def is_system_folder(target: str, folder: str) -> bool:
    """As `is_critical_folder`, but without homes and data, whose owner and mode may well be changed as a whole."""
    parts = _folder_parts(target, folder)
    return parts is not None and (not parts or _in_table(parts, _SYSTEM_FOLDERS))


def _folder_parts(target: str, folder: str) -> list[str] | None:
    """The folder that a target takes all of, as the parts of its path; None where it cannot be known."""
    path = resolve(target, folder)
    if not path:
        return None
    parts = [part for part in path.split("/") if part]
    while parts and _takes_all(parts[-1]):
        parts.pop()
    return parts


def is_critical_file(target: str, folder: str) -> bool:
    """Is this a file without which the host does not start, or nobody can log in?"""
    path = resolve(target, folder)
    parts = [part for part in path.split("/") if part]
    return bool(parts) and not _takes_all(parts[-1]) and _in_table(parts, _CRITICAL_FILES)


def is_startup_file(target: str, folder: str) -> bool:
    """Would what is written there run, or decide who may log in, without anybody asking for it again?"""
    return _STARTUP.fullmatch(resolve(target, folder)) is not None


def is_data_tree(target: str, folder: str) -> bool:
    """Is this a whole tree of people's data: a top-level folder that the system does not know, a mount, all of a data set?"""
    path = resolve(target, folder)
    parts = [part for part in path.split("/") if part]
    everything = bool(parts) and _takes_all(parts[-1])
    while parts and _takes_all(parts[-1]):
        parts.pop()
    if not parts or parts[0] in ("tmp", "proc", "dev") or any(_PASSING.search(part) for part in parts):
        return False
    if len(parts) == 3 and parts[:2] == ["var", "lib"] and parts[2] in _STORES:
        return True
    if parts[:3] == ["var", "lib", "docker"] and parts[3:] in (["volumes"], ["overlay2"], ["containers"], ["image"]):
        return True
    if parts[:2] == ["var", "lib"] and len(parts) > 2 and parts[2] in (_STORES if everything else _DATABASES):
        return True
    if not is_known("".join(parts)) or has_wildcard("".join(parts)):
        return False
    if len(parts) == 1:
        return everything or "." not in parts[0]
    if len(parts) == 2:
        kept = parts[0] in _HOLDING and parts[1] in _KEPT
        return kept or parts[0] in _MOUNTS or (everything and parts[0] in _DATA_ROOTS)
    return len(parts) == 3 and everything and "/".join(parts[:2]) in _DATA_BELOW


def is_critical(target: str, folder: str) -> bool:
    return is_critical_folder(target, folder) or is_critical_file(target, folder)


def is_device(target: str, folder: str) -> bool:
    """Is this a block device, or the memory, whose content would be lost by writing to it?"""
    # A variable that a session may have set can name any device: /dev/$DISK.
    for possible in {target, target.replace(UNSET, UNKNOWN)}:
        path = resolve(possible, folder)
        if path.startswith("/dev/") and not _NO_DISK.fullmatch(path) and path != f"/dev/{STAR}":
            return True
    return False


def _takes_all(part: str) -> bool:
    """Does a wildcard take (nearly) every name: `*`, `.*`, `.[!.]*`, `?*`, `[a-z]*`?"""
    if STAR not in part and QUESTION not in part:
        return False
    rest = re.sub(BRACKET + r"(?:[!^][^]]*|a-z[^]]*)\]", "", part)
    return not rest.strip(STAR + QUESTION + ".")


def _in_table(parts: list[str], table: Table) -> bool:
    if parts[0] == "home" and len(parts) > 1:
        parts = ["home", "*", *parts[2:]]
    elif len(parts) > 1 and not parts[-1].strip(MARKS):
        # Something unknown in a folder is most often harmless; at the root, or among the homes, it never is.
        return False
    path = "/".join(parts)
    if path in table.names or path.startswith(table.beginnings):
        return True
    if is_known(path) and not has_wildcard(path):
        return False
    return any(all(map(matches, parts, names)) for names in table.by_depth.get(len(parts), ()))
