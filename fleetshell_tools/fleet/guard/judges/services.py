"""Judges of class access, database and container: lost logins and networks, dropped data, everything in a cluster.

A first selection, most of it data: a program, and the words that make it destructive together.
"""

from __future__ import annotations

import re

from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.rules import Command, Finding, judges
from fleetshell_tools.fleet.guard.symbols import STAR

_LOGINS = ("access", "stop-logins", "ends logins or the network of the host")
_NETWORK = ("access", "cut-network", "takes the host off the network")
_LOCK_OUT = ("access", "lock-out", "shuts out the connection that manages the host")
_ACCOUNT = ("access", "break-account", "takes an account or its table of jobs away")
_PACKAGES = ("access", "remove-essential", "removes packages that the host needs")
_DROPS = ("database", "drop", "drops, empties or stops a database")
_EVERYTHING = ("container", "destroy-all", "destroys containers, volumes or cloud resources as a whole")

_LOGIN_UNITS = (
    "ssh|sshd|ssh.service|sshd.service|ssh.socket|dropbear|networking|NetworkManager|systemd-networkd|systemd-logind"
)
_ESSENTIAL = "openssh-server|systemd|bash|coreutils|glibc|libc6|util-linux|sudo|init|dpkg|rpm|--allow-remove-essential"
_REMOVE = "remove|purge|autoremove|erase|del|rm|-e|-r|-P|-R|-Rns|--erase|--purge|--remove"

# Programs; what they then do; word patterns, of which one must hold. In a pattern each group must be met by a word.
_TABLE: tuple[tuple[str, tuple[str, str, str], tuple[str, ...]], ...] = (
    ("systemctl service", _LOGINS, (f"stop|disable|mask|kill {_LOGIN_UNITS}",)),
    ("ip", _NETWORK, ("link|l down", "route|r|ro flush", "route|r|ro del|delete default", "addr|address|a flush")),
    ("ifconfig", _NETWORK, ("down",)),
    ("nmcli", _NETWORK, ("networking|n|net off",)),
    (
        "iptables ip6tables",
        _LOCK_OUT,
        ("-P|--policy INPUT|OUTPUT DROP|REJECT", "-A|-I|--append|--insert INPUT|OUTPUT DROP|REJECT 22|ssh"),
    ),
    ("nft", _LOCK_OUT, ("drop|reject 22|ssh",)),
    ("ufw", _LOCK_OUT, ("deny|reject 22|ssh|22/tcp|OpenSSH|incoming",)),
    ("userdel deluser", _ACCOUNT, ("root",)),
    ("usermod passwd", _ACCOUNT, ("root -L|-l|--lock|-d|--delete|-e|--expire",)),
    ("chsh", _ACCOUNT, ("root /bin/false|/usr/bin/false|/sbin/nologin|/usr/sbin/nologin",)),
    ("apt apt-get dnf yum rpm dpkg apk pacman zypper", _PACKAGES, (f"{_REMOVE} {_ESSENTIAL}",)),
    ("mysqladmin", _DROPS, ("drop|shutdown",)),
    ("redis-cli valkey-cli", _DROPS, ("flushall|FLUSHALL|flushdb|FLUSHDB|shutdown|SHUTDOWN",)),
    ("docker podman", _EVERYTHING, ("system prune --volumes", "volume prune", f"rm|rmi|stop|kill {STAR}")),
    ("kubectl oc", _EVERYTHING, ("delete --all|--all-namespaces|-A|ns|namespace|namespaces|pv",)),
    (
        "aws",
        _EVERYTHING,
        (
            "s3 rm --recursive",
            "s3 rb --force",
            "terminate-instances|delete-db-instance|delete-db-cluster|delete-stack|delete-cluster",
        ),
    ),
    ("gcloud", _EVERYTHING, ("delete projects|instances|clusters|databases",)),
    ("terraform tofu", _EVERYTHING, ("destroy", "apply -destroy")),
)
_HARMLESS = frozenset(["--help", "--version", "--dry-run", "--dryrun", "--dry-run=client", "--dry-run=server", "lo"])

_Rule = tuple[tuple[str, str, str], list[list[set[str]]]]
_RULES: dict[str, _Rule] = {
    program: (what, [[set(group.split("|")) for group in pattern.split()] for pattern in patterns])
    for programs, what, patterns in _TABLE
    for program in programs.split()
}

_SQL = re.compile(
    r"\b(?:drop\s+(?:database|schema|table|keyspace|user)|truncate\s+(?:table\s+)?[\w.`\"]+)\b", re.IGNORECASE
)
_SQL_TEXT = re.compile(r"'[^']*'|--[^\n]*")
_MONGO = re.compile(r"\bdropDatabase\s*\(|\.drop\s*\(|\.deleteMany\s*\(\s*\{\s*\}")


@judges(*_RULES)
def by_words(command: Command) -> Finding | None:
    """Judge by the table."""
    (kind, rule, effect), patterns = _RULES[command.name]
    words = set(command.arguments)
    if words & _HARMLESS or not any(all(group & words for group in pattern) for pattern in patterns):
        return None
    return Finding(kind, rule, effect, command.argv)


@judges("dropdb", "ifdown")
def always(command: Command) -> Finding | None:
    if _HARMLESS & set(command.arguments) or not command.arguments:
        return None
    return Finding(*(_DROPS if command.name == "dropdb" else _NETWORK), command.argv)


@judges("iptables-restore", "ip6tables-restore")
def empties_rules(command: Command) -> Finding | None:
    return None if command.stdin or parse(command.arguments).operands else Finding(*_LOCK_OUT, command.argv)


@judges("crontab")
def removes_table(command: Command) -> Finding | None:
    return Finding(*_ACCOUNT, command.argv) if parse(command.arguments, short="u").has("r") else None


@judges("mysql", "mariadb", "psql", "cqlsh", "sqlite3", "mongo", "mongosh", "clickhouse-client", "sqlcmd")
def drops_data(command: Command) -> Finding | None:
    """Statements on the command line and on stdin; what stands in an SQL string or comment does nothing."""
    options = parse(command.arguments, short="echuPDdUfq", long=("execute", "command", "eval", "query"))
    text = "\n".join([*options.values.values(), *options.operands, command.stdin])
    if _MONGO.search(text) if command.name.startswith("mongo") else _SQL.search(_SQL_TEXT.sub("''", text)):
        return Finding(*_DROPS, command.argv)
    return None
