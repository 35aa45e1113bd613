"""Judges of class access: lost logins, networks, accounts, rights and packages that a host is managed by."""

from __future__ import annotations

import re

from fleetshell_tools.fleet.guard.judges.firewall import LOCK_OUT
from fleetshell_tools.fleet.guard.judges.words import HARMLESS, Row, by_words, table
from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import is_critical_file, is_critical_folder, is_system_folder, resolve
from fleetshell_tools.fleet.guard.rules import Command, Finding, judges
from fleetshell_tools.fleet.guard.symbols import STAR, UNKNOWN, shown

_LOGINS = ("access", "stop-logins", "ends logins or the network of the host")
_NETWORK = ("access", "cut-network", "takes the host off the network")
_FIREWALL = ("access", "drop-firewall", "takes the firewall away")
_GUARDS = ("access", "drop-protection", "switches off what protects the host")
_ACCOUNT = ("access", "break-account", "takes an account or its table of jobs away")
_PACKAGES = ("access", "remove-essential", "removes packages that the host needs")
_RIGHTS = ("access", "permissions-critical", "changes the owner or mode of all that the host needs")

_LOGIN_UNITS = (
    "ssh|sshd|ssh.service|sshd.service|ssh.socket|sshd.socket|ssh*|sshd*|dropbear|dropbear.service|networking|"
    "networking.service|NetworkManager|NetworkManager.service|systemd-networkd|systemd-networkd.service|network|"
    "network.service|network.target|systemd-logind|systemd-logind.service|dbus|dbus.service"
)
_ESSENTIAL = (
    "openssh-server|openssh|systemd|bash|coreutils|glibc|libc6|util-linux|sudo|init|dpkg|rpm|login|apt|base-files|libc-bin|busybox|musl|alpine-base|python3|python3-minimal|perl-base|libc6:*|"
    "kernel|linux-image-amd64|linux-image-generic|linux-image*|^linux-image*|kernel-core|grub*|systemd-sysv|libpam*|"
    "--allow-remove-essential|--force-remove-essential|--force-all|network-manager|netplan.io|openssh-*"
)
_FIREWALL_UNITS = "|".join(
    f"{name}|{name}.service"
    for name in ("firewalld", "ufw", "nftables", "iptables", "netfilter-persistent", "shorewall")
)
_DRIVERS = "virtio_net|e1000*|igb*|ixgbe*|i40e|ice|mlx4*|mlx5*|bnx2*|bnxt*|tg3|vmxnet3|ena|hv_netvsc|r8169|bonding|virtio_blk|nvme|ext4|xfs"
_REMOVE = "remove|purge|autoremove|erase|del|rm|-e|-r|-P|-R|-Rns|-Rdd|--erase|--purge|--remove|remove-nodeps"
_CARDS = "eth*|en*|wl*|bond*|team*|br0|vmbr*"

_ROWS: tuple[Row, ...] = (
    ("systemctl service rc-service invoke-rc.d initctl sv", _LOGINS, (f"stop|disable|mask|kill|down|exit {_LOGIN_UNITS}",)),
    ("systemctl service rc-service", _LOGINS, ("stop|disable|mask auditd|auditd.service",)),
    ("systemctl service rc-service", _FIREWALL, (f"stop|disable|mask {_FIREWALL_UNITS}",)),
    ("setenforce", _GUARDS, ("0|Permissive|permissive",)),
    ("auditctl", _GUARDS, ("-e 0", "-D", "-e0")),
    ("modprobe", _NETWORK, (f"-r|--remove {_DRIVERS}",)),
    ("rmmod", _NETWORK, (_DRIVERS,)),
    ("update-rc.d chkconfig rc-update systemd-sysv-install", _LOGINS, (f"disable|remove|off|del|delete {_LOGIN_UNITS}",)),
    ("loginctl", _LOGINS, ("terminate-user|kill-user root|0", "terminate-seat")),
    (
        "ip",
        _NETWORK,
        (
            "link|l|li down",
            f"link|l|li del|delete {_CARDS}",
            "route|r|ro flush",
            "route|r|ro del|delete|d default|0.0.0.0/0",
            "addr|address|a flush",
            f"addr|address|a del|delete {_CARDS}",
        ),
    ),
    ("route", _NETWORK, ("del default|0.0.0.0",)),
    ("ifconfig", _NETWORK, ("down", "0|0.0.0.0")),
    ("dhclient dhcpcd", _NETWORK, ("-r|-k|-x|--release",)),
    ("nmcli", _NETWORK, ("networking|n|net off", "radio|r all|wifi off", "connection|con|c down|delete", "device|dev|d disconnect|delete|down")),
    ("networkctl", _NETWORK, ("down|delete",)),
    ("tc", _NETWORK, ("netem loss 100%",)),
    ("userdel deluser", _ACCOUNT, ("root|ubuntu|admin|ec2-user|debian|centos|rocky|fedora|vagrant|opc|azureuser|pi|sshd|messagebus",)),
    ("deluser gpasswd delgroup", _ACCOUNT, ("sudo|wheel|admin|ssh|sshusers -d|--delete", )),
    ("groupdel delgroup", _ACCOUNT, ("sudo|wheel|root|admin|shadow|adm|ssh|sshd",)),
    ("deluser", _ACCOUNT, ("sudo|wheel|admin",)),
    ("chage", _ACCOUNT, ("root -E|--expiredate",)),
    ("chsh usermod", _ACCOUNT, ("root nologin|/bin/nologin|*/false|/bin/false|/usr/bin/false|/sbin/nologin|/usr/sbin/nologin",)),
    ("apt apt-get aptitude dnf microdnf yum rpm dpkg apk pacman zypper", _PACKAGES, (f"{_REMOVE} {_ESSENTIAL}",)),
)  # fmt: skip
_RULES = table(_ROWS)
_VIRTUAL = re.compile(r"(?:wg|tun|tap|veth|docker|br-|virbr|dummy|vxlan|cni|flannel|lxc)\w*")
"""Interfaces that a host is not managed by."""


@judges(*_RULES)
def judged_by_words(command: Command) -> Finding | None:
    words = set(command.arguments)
    if command.name in ("ip", "ifconfig") and (words & {"lo", "netns"} or any(map(_VIRTUAL.match, words))):
        return None
    if "kill" in words and words & {"HUP", "SIGHUP", "--signal=HUP", "USR1"}:
        return None
    return by_words(command, _RULES)


@judges("ifdown")
def takes_down(command: Command) -> Finding | None:
    return Finding(*_NETWORK, command.argv) if command.arguments and "lo" not in command.arguments else None


@judges("crontab")
def removes_table(command: Command) -> Finding | None:
    options = parse(command.arguments, short="u")
    emptied = options.operands == ["/dev/null"] or (options.operands == ["-"] and not command.stdin.strip())
    return Finding(*_ACCOUNT, command.argv) if options.has("r") or emptied else None


@judges("userdel", "deluser", "usermod", "passwd", "chage", "faillock")
def shuts_out_login(command: Command) -> Finding | None:
    """The account that we log in with, root's, or one that cannot be known."""
    # `passwd -dl` is `passwd -d -l`.
    words = set(command.arguments) | {
        f"-{letter}" for word in command.arguments if re.fullmatch(r"-[a-zA-Z]{2,4}", word) for letter in word[1:]
    }
    user = command.user or "root"
    named = bool(words & {"root", user, UNKNOWN}) or any("--remove" in word and UNKNOWN in words for word in words)
    locking = {
        "userdel": True,
        "deluser": True,
        "usermod": bool(words & {"-L", "--lock", "-e", "--expiredate"}),
        "passwd": bool(words & {"-l", "--lock", "-d", "--delete", "-e", "--expire"}),
        "chage": bool(words & {"-E", "--expiredate"}),
        "faillock": False,
    }[command.name]
    if not (named and locking) or words & HARMLESS or (UNKNOWN in words and command.name not in ("userdel", "deluser")):
        return None
    return Finding(*_ACCOUNT, command.argv)


# Folders of the system whose owner and mode are those of an application's data.
_APPLICATIONS = re.compile(r"/(?:var/www|srv|opt|usr/local(?:/.*)?|var/backups|var/mail|var/lib|var/log|media|mnt)")
_PROGRAMS = re.compile(r"/(?:usr/)?s?bin/[^/]+|/(?:usr/)?lib(?:64|32)?/[^/]+")
_RUNNABLE = re.compile(r"/(?:usr/)?s?bin/[^/]+")
_OPENS = re.compile(r"[0-7]?[0-7]{2}[2367]|[oa]*[+=][rxXst]*w[rwxXst]*")


@judges("chmod", "chown", "chgrp")
def opens_up(command: Command) -> Finding | None:
    modes = [word for word in command.arguments if _is_mode(word)] if command.name == "chmod" else []
    options = parse([word for word in command.arguments if word not in modes], long=("reference", "from"))
    targets = options.operands if command.name == "chmod" and modes else options.operands[1:] or options.operands
    mode = modes[0] if modes else ""
    recursive = options.has("R", "recursive")
    extreme = bool(_OPENS.fullmatch(mode) or _closes(mode))
    for target in targets:
        path = resolve(target, command.folder)
        if (
            (recursive or (path.endswith(STAR) and (command.name != "chmod" or path.count("/") < 3)))
            and is_system_folder(target, command.folder)
            and (extreme or not _APPLICATIONS.fullmatch(shown(path.removesuffix("/" + STAR))))
        ):
            return Finding(*_RIGHTS, command.argv)
        whole = is_critical_folder(target, command.folder) and not _APPLICATIONS.fullmatch(path)
        if extreme and (
            whole or is_critical_file(target, command.folder) or (_PROGRAMS.fullmatch(path) and _closes(mode))
        ):
            return Finding(*_RIGHTS, command.argv)
        if _RUNNABLE.fullmatch(path) and mode.isdigit() and int(mode[-3:-2] or "0") % 2 == 0:
            return Finding(*_RIGHTS, command.argv)
    return None


def _is_mode(word: str) -> bool:
    return (
        bool(re.fullmatch(r"[0-7]{1,4}|[ugoa]*(?:[-+=][rwxXstugo]*)(?:,[ugoa]*[-+=][rwxXstugo]*)*", word))
        and word != "-R"
    )


def _closes(mode: str) -> bool:
    """Does a mode take reading or executing away from the owner?"""
    if mode.isdigit():
        return int(mode[-3:-2] or "0") < 4
    return any(
        re.fullmatch(r"(?:[ugoa]*[ua][ugoa]*)?-[wXst]*[rx][rwxXst]*|(?:[ugoa]*[ua][ugoa]*)?=", part)
        for part in mode.split(",")
    )


_ANYBODYS_PROGRAM = re.compile(r"/(?:usr/)?(?:local/)?s?bin/.*|/(?:tmp|var/tmp|dev/shm|home)/.*")


@judges("chmod")
def lends_root(command: Command) -> Finding | None:
    """A program that runs as its owner, whoever starts it."""
    sets = any(
        re.fullmatch(r"[ug]*[ug][ugoa]*[+=][rwxXt]*s[rwxXst]*|\+s|[2-7][0-7]{3}", word) for word in command.arguments
    )
    setuid = sets and not any(
        re.fullmatch(r"[23][0-7]{3}|1[0-7]{3}|g\+[rwx]*s[rwx]*", word) for word in command.arguments
    )
    if setuid and any(
        _ANYBODYS_PROGRAM.fullmatch(resolve(word, command.folder)) for word in command.arguments if "/" in word
    ):
        return Finding("access", "lend-root", "lets everybody run a program as its owner", command.argv)
    return None


_ACCOUNTS = frozenset(["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/sudoers"])


@judges("chown")
def gives_away(command: Command) -> Finding | None:
    options = parse(command.arguments, long=("reference", "from"))
    owner = (options.operands or [""])[0].partition(":")[0]
    paths = [resolve(target, command.folder) for target in options.operands[1:]]
    given = [path for path in paths if path in _ACCOUNTS or _PROGRAMS.fullmatch(path)]
    return Finding(*_RIGHTS, command.argv) if given and owner not in ("root", "0", "") else None


@judges("chpasswd", "useradd", "adduser", "usermod", "passwd")
def makes_root(command: Command) -> Finding | None:
    """A new password for root, a second account with its rights, or an account without a password."""
    options = parse(
        command.arguments,
        short="ugGdcsbeKkpfRPZ" if command.name != "passwd" else "inwxRr",
        long=("uid", "gid", "groups", "home", "comment", "shell", "password"),
    )
    roots = {"root", "0"} & set(options.operands)
    password = options.value("p", "password") if command.name != "passwd" else None
    given = {
        "chpasswd": re.search(r"^(?:root|0):", command.stdin, re.MULTILINE) is not None,
        "passwd": bool(command.stdin.strip()) and bool(roots or not options.operands),
    }.get(command.name, options.value("u", "uid") == "0" or password == "" or (password is not None and bool(roots)))
    return Finding("access", "make-root", "changes who is root", command.argv) if given else None


_CAPABILITIES = re.compile(
    r"(?:=e?p?|all|.*cap_(?:setuid|setgid|setpcap|sys_admin|sys_module|sys_ptrace|dac_override|dac_read_search|chown|fowner|setfcap)).*"
)


@judges("setcap")
def lends_capabilities(command: Command) -> Finding | None:
    if any(_CAPABILITIES.match(word.lower()) for word in command.arguments if not word.startswith(("/", "-"))):
        return Finding("access", "lend-root", "lets everybody run a program with the rights of root", command.argv)
    return None


@judges("setfacl", "chattr")
def changes_attributes(command: Command) -> Finding | None:
    options = parse(command.arguments, short="mxMX" if command.name == "setfacl" else "pv", long=("modify", "remove"))
    if not (set(options.values) - {"d", "v"}) and not any(word.startswith(("+", "=")) for word in command.arguments):
        return None
    for target in options.operands:
        system = is_system_folder(target, command.folder) and options.has("R", "recursive")
        critical = is_critical_file(target, command.folder) and (command.name == "setfacl" or "+i" in command.arguments)
        if system or critical:
            return Finding(*_RIGHTS, command.argv)
    return None


_WEAKENS = re.compile(
    r"^\s*(?:PermitRootLogin\s+yes|PermitEmptyPasswords\s+yes|DenyUsers\s+(?:\*|root)|UsePAM\s+no|PubkeyAuthentication\s+no)",
    re.IGNORECASE | re.MULTILINE,
)


@judges(">", ">>", "tee")
def changes_ssh(command: Command) -> Finding | None:
    """Lines of sshd's configuration that let everybody in, or nobody."""
    configured = any(resolve(word, command.folder).startswith("/etc/ssh/sshd_config") for word in command.arguments)
    if configured and _WEAKENS.search(command.stdin):
        return Finding("access", "change-logins", "lets anybody or nobody log in", command.argv)
    return None


@judges("touch", ">", ">>", "tee", "cp", "mv")
def denies_logins(command: Command) -> Finding | None:
    """`/etc/nologin` keeps everybody out while it exists; `/etc/hosts.deny` whom it names."""
    for target in command.arguments:
        path = resolve(target, command.folder)
        if path == "/etc/nologin" or (path == "/etc/hosts.deny" and re.search(r"\b(?:ALL|sshd)\s*:", command.stdin)):
            return Finding(*LOCK_OUT, command.argv)
    return None
