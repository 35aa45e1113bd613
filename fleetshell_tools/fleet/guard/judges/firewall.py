"""Judges of class access: firewalls that are emptied, or that shut out the connection by which the host is managed."""

from __future__ import annotations

from collections.abc import Sequence

from fleetshell_tools.fleet.guard.judges.words import HARMLESS, Row, by_words, table
from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.rules import Command, Finding, judges

LOCK_OUT = ("access", "lock-out", "shuts out the connection that manages the host")
_DEFAULT = ("access", "default-deny", "shuts out ssh unless a rule lets it in, and the command adds none")
_FIREWALL = ("access", "drop-firewall", "removes the firewall's rules as a whole")
_ROWS: tuple[Row, ...] = (
    ("ufw", LOCK_OUT, ("reset", "disable", "delete allow|limit 22|ssh|22/tcp|OpenSSH")),
    ("ufw", _DEFAULT, ("default deny|reject incoming",)),
    (
        "firewall-cmd",
        LOCK_OUT,
        (
            "--panic-on",
            "--remove-service=ssh",
            "--remove-service ssh",
            "--remove-port 22/tcp",
            "--remove-port=22/tcp",
            "--set-default-zone=drop|--set-default-zone=block",
            "--complete-reload --remove-service",
        ),
    ),
)
_RULES = table(_ROWS)


@judges(*_RULES)
def judged_by_words(command: Command) -> Finding | None:
    return by_words(command, _RULES)


@judges("firewall-cmd")
def richly_denies(command: Command) -> Finding | None:
    """`--add-rich-rule='rule service name="ssh" drop'`"""
    rules = [word for word in command.arguments if word.startswith(("--add-rich-rule", "rule "))]
    shut = any(
        ("ssh" in rule or '"22"' in rule) and ("drop" in rule or "reject" in rule) and "source" not in rule
        for rule in rules
    )
    return Finding(*LOCK_OUT, command.argv) if shut else None


_SSH = frozenset(["22", "ssh", "22/tcp", "OpenSSH", "--dport=22", "--add-service=ssh", "--add-port=22/tcp"])
_LETS_IN = frozenset(["allow", "limit", "ACCEPT", "accept", "--add-service=ssh", "--add-port=22/tcp"])
_TABLES = ("iptables", "ip6tables", "iptables-nft", "iptables-legacy")


def keeps_ssh_open(words: Sequence[str]) -> bool:
    """Does a command let ssh in, so that one that denies the rest by default shuts nobody out?"""
    given = set(words)
    firewall = words and words[0] in ("ufw", "nft", "firewall-cmd", *_TABLES)
    if not firewall or given & {"-D", "--delete", "delete"}:
        return False
    established = bool(given & {"ESTABLISHED,RELATED", "RELATED,ESTABLISHED"}) and "ACCEPT" in given
    return bool(given & _LETS_IN and (given & _SSH or established))


@judges("ufw")
def denies_ssh(command: Command) -> Finding | None:
    words = list(command.arguments)
    denied = set(words) & {"deny", "reject"} and set(words) & _SSH and "default" not in words and "delete" not in words
    source = words[words.index("from") + 1 :][:1] if "from" in words else ["any"]
    if (
        "from" in words
        and source == ["any"]
        and set(words) & {"deny", "reject"}
        and not set(words) & {"port", "delete"}
    ):
        return Finding(*_DEFAULT, command.argv)
    return Finding(*LOCK_OUT, command.argv) if denied and source in (["any"], ["0.0.0.0/0"]) else None


@judges("nft")
def rules_of_nftables(command: Command) -> Finding | None:
    """`nft` takes its words one by one, all in one argument, or from stdin."""
    text = " ".join(command.arguments) + ("\n" + command.stdin if "-" in command.arguments else "")
    words = text.replace(";", " ").replace("{", " ").replace("}", " ").split()
    given = set(words)
    if given & {"list", "-c", "--check"} or not words:
        return None
    if {"flush", "ruleset"} <= given or (given & {"flush", "delete", "destroy"} and given & {"table", "chain"}):
        return Finding(*_FIREWALL, command.argv)
    drops = bool(given & {"drop", "reject"})
    if drops and given & {"22", "ssh"} and "saddr" not in given:
        return Finding(*LOCK_OUT, command.argv)
    default = "policy" in given or not given & {
        "saddr",
        "daddr",
        "dport",
        "sport",
        "iif",
        "iifname",
        "oifname",
        "ct",
        "meta",
    }
    if drops and default and given & {"input", "INPUT"}:
        return Finding(*_DEFAULT, command.argv)
    return None


def _flushes(words: list[str]) -> bool:
    """Every chain, or one of the three that the kernel itself asks."""
    named = [word for word in words if word.isupper() and len(word) > 2]
    return not named or bool({"INPUT", "OUTPUT", "FORWARD"} & set(named))


@judges(*_TABLES)
def filters(command: Command) -> Finding | None:
    words = list(command.arguments)
    given = set(words)
    if given & HARMLESS:
        return None
    if "0.0.0.0/0" in given:
        given -= {"-s", "--source"}
    if given & {"-F", "--flush"} and _flushes(words):
        return Finding(*_FIREWALL, command.argv)
    if {"filter"} != {words[at + 1] for at, word in enumerate(words[:-1]) if word in ("-t", "--table")} | {"filter"}:
        return None
    drops = bool(given & {"DROP", "REJECT"})
    base = bool(given & {"INPUT", "OUTPUT"})
    from_one = given & {"-s", "--source"} and "0.0.0.0/0" not in given
    to_ssh = any({"22", "ssh"} & set(word.split(",")) for word in words)
    if given & {"-P", "--policy"} and base and drops:
        return Finding(*_DEFAULT, command.argv)
    if given & {"-D", "--delete"} and base and to_ssh and "ACCEPT" in given and not from_one:
        return Finding(*LOCK_OUT, command.argv)
    if given & {"-A", "-I", "--append", "--insert"} and base and drops:
        if to_ssh and not from_one:
            return Finding(*LOCK_OUT, command.argv)
        other = given & {"-p", "--protocol"} and not given & {"tcp", "all"}
        if not given & _NARROWING and not other:
            return Finding(*_DEFAULT, command.argv)
    return None


_NARROWING = frozenset("-s --source -d --destination -m --match --dport --dports --sport !".split())


@judges("iptables-restore", "ip6tables-restore")
def empties_rules(command: Command) -> Finding | None:
    named = parse(command.arguments).operands
    return Finding(*LOCK_OUT, command.argv) if named == ["/dev/null"] or not (command.stdin or named) else None
