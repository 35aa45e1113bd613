"""Ansible inventories, ini and YAML: which hosts there are, their groups and their variables.

Follows "How to build your inventory" of Ansible's documentation. Only what stands in the one file is read: no `group_vars`,
no `host_vars`, no plugins and no templates.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetshell_tools.core import yamlfile
from fleetshell_tools.core.errors import ConfigError

EVERYTHING = ("all", "ungrouped")
"""The groups that every inventory has; they say nothing about a host."""

MOST_HOSTS = 10_000
"""How many hosts a range may grow to: `[1:999999999]` is a mistake, or worse."""

_RANGE = re.compile(r"\[(\w+):(\w+)(?::([0-9]+))?\]")


@dataclass(frozen=True)
class Host:
    """One host: its name in the inventory, its variables after inheritance, and the groups that it is in, outermost first."""

    name: str
    variables: Mapping[str, Any]
    groups: tuple[str, ...]


@dataclass
class _Group:
    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    children: list[str] = field(default_factory=list)


Groups = dict[str, _Group]


def read(text: str, name: str) -> list[Host]:
    """The hosts of an inventory in either form.

    Args:
        name: What messages call the file.

    Raises:
        ConfigError: It is neither, with the line.
    """
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and line[0] not in "#;" and line != "---"), "")
    is_yaml = name.endswith((".yml", ".yaml", ".json")) or re.fullmatch(r"[\w.-]+:(\s+#.*)?", first) is not None
    return _flat(_from_yaml(text, name) if is_yaml else _from_ini(text, name))


def _from_ini(text: str, name: str) -> Groups:
    groups: Groups = {}
    section, kind = "ungrouped", ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        heading = re.fullmatch(r"\[([^\]:]+)(?::(\w+))?\](\s*[#;].*)?", line)
        if heading:
            section, kind = heading[1], heading[2] or ""
            if kind not in ("", "vars", "children"):
                raise ConfigError(f"{name}, line {number}: [{section}:{kind}] is no section; allowed: vars, children.")
            groups.setdefault(section, _Group())
            continue
        group = groups.setdefault(section, _Group())
        if kind == "vars":
            key, equals, value = line.partition("=")
            if not equals:
                raise ConfigError(f"{name}, line {number}: a variable has the form NAME=VALUE.")
            group.variables[key.strip()] = _unquoted(value.strip())
        elif kind == "children":
            child = line.split("#")[0].strip()
            group.children.append(child)
            groups.setdefault(child, _Group())
        else:
            host, variables = _host_line(line, f"{name}, line {number}")
            for one in _expanded(host, f"{name}, line {number}"):
                bare, port = _with_port(one)
                group.hosts.setdefault(bare, {}).update({**port, **variables})
    return groups


def _host_line(line: str, where: str) -> tuple[str, dict[str, str]]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}.") from None
    variables = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f'{where}: "{word[:60]}" behind a host is no NAME=VALUE; is this an Ansible inventory?')
        variables[key] = value
    return words[0], variables


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _with_port(name: str) -> tuple[str, dict[str, str]]:
    """`host:2222`, an old form that is still accepted."""
    found = re.fullmatch(r"([^:]+|\[[^\]]+\]):([0-9]+)", name)
    return (found[1], {"ansible_port": found[2]}) if found else (name, {})


def _expanded(name: str, where: str) -> Iterator[str]:
    """`web[01:10:2]` and `db-[a:c]` as single names; both ends belong to it."""
    found = _RANGE.search(name)
    if not found:
        yield name
        return
    low, high, step = found[1], found[2], int(found[3] or 1)
    if low.isdecimal() and high.isdecimal() and step:
        first, last = int(low), int(high)
        width = len(low) if low.startswith("0") else 0
    elif len(low) == len(high) == 1 and low.isalpha() and high.isalpha() and step:
        first, last, width = ord(low), ord(high), -1
    else:
        raise ConfigError(f"{where}: {found[0]} is no range of numbers or of letters.")
    if first > last or (last - first) // step >= MOST_HOSTS:
        raise ConfigError(f"{where}: {found[0]} runs backwards or has more than {MOST_HOSTS} members.")
    for at in range(first, last + 1, step):
        member = chr(at) if width < 0 else str(at).zfill(width)
        yield from _expanded(f"{name[: found.start()]}{member}{name[found.end() :]}", where)


def _from_yaml(text: str, name: str) -> Groups:
    document = yamlfile.parse(text, name)
    if not isinstance(document.data, dict):
        raise ConfigError(f"{name} is no Ansible inventory: it should be a map of groups.")
    groups: Groups = {}
    for group, body in document.data.items():
        _add_group(groups, group, body, document, (group,))
    return groups


def _add_group(groups: Groups, name: str, body: Any, document: yamlfile.Document, at: tuple[str, ...]) -> None:
    """Add a group and those below it."""
    group = groups.setdefault(name, _Group())
    body = _map(body, document, at)
    for host, variables in _map(body.get("hosts"), document, (*at, "hosts")).items():
        for one in _expanded(host, f"{document.name}, line {document.line((*at, 'hosts', host))}"):
            group.hosts.setdefault(one, {}).update(_map(variables, document, (*at, "hosts", host)))
    group.variables.update(_map(body.get("vars"), document, (*at, "vars")))
    for child, inner in _map(body.get("children"), document, (*at, "children")).items():
        group.children.append(child)
        _add_group(groups, child, inner, document, (*at, "children", child))


def _map(value: Any, document: yamlfile.Document, at: tuple[str, ...]) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise document.error(at, f"{'.'.join(at)} should be a map; is this an Ansible inventory?")
    return value


def _flat(groups: Groups) -> list[Host]:
    """Every host with what it inherits: from `all`, then from outer groups, then from inner ones, then its own."""
    parents: dict[str, list[str]] = {name: [] for name in groups}
    for name, group in groups.items():
        for child in group.children:
            parents[child].append(name)
    members: dict[str, list[str]] = {}
    own: dict[str, dict[str, Any]] = {}
    for name, group in groups.items():
        for host, variables in group.hosts.items():
            own.setdefault(host, {}).update(variables)
            members.setdefault(host, []).append(name)
    hosts = []
    for host in members:
        chain = sorted(_above(members[host], parents), key=lambda name: (_depth(name, parents, ()), name))
        inherited: dict[str, Any] = dict(groups["all"].variables) if "all" in groups else {}
        for name in chain:
            inherited.update(groups[name].variables)
        hosts.append(Host(host, {**inherited, **own[host]}, tuple(name for name in chain if name not in EVERYTHING)))
    return hosts


def _above(names: list[str], parents: Mapping[str, list[str]]) -> set[str]:
    """These groups and all that hold them; a circle ends where it began."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += parents[name]
    return found


def _depth(name: str, parents: Mapping[str, list[str]], seen: tuple[str, ...]) -> int:
    """How many groups stand above, by the longest way."""
    if name in seen:
        return 0
    return max((1 + _depth(parent, parents, (*seen, name)) for parent in parents[name]), default=0)
