"""`import`: servers from `~/.ssh/config` or from an Ansible inventory, with what was skipped and why."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleetshell_tools.cli import output, ssh_hosts
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core import ansible, servers, storage, yamlfile
from fleetshell_tools.core.config import SERVER_ID
from fleetshell_tools.core.errors import ConfigError, FleetShellError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.servers import Inventory
from fleetshell_tools.core.text import one_line

CODE_HOSTS = ("git", "hg", "gerrit")
"""Login users of hosts that keep code and give nobody a shell."""

ENVIRONMENTS = {
    **dict.fromkeys(("production", "prod", "prd", "live"), "production"),
    **dict.fromkeys(("staging", "stage", "stg", "preprod"), "staging"),
    **dict.fromkeys(("testing", "test", "qa"), "testing"),
    **dict.fromkeys(("development", "devel", "dev"), "development"),
}
"""Names of Ansible groups that say which environment a host belongs to."""

NO_SSH = "it is reached by {}, not by ssh"


@dataclass
class Found:
    """A host as it was found: the data of its file, or why there will be none; `jump` is its jump server as the source names it."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""
    jump: str = ""


@command(
    "import",
    Arg("file", nargs="?", metavar="FILE", help="an ssh configuration or an Ansible inventory, ini or YAML (default ~/.ssh/config)"),
    Arg("--dry-run", action="store_true", help="show what would be done, and change nothing"),
    JSON,
    example="fleetshell import inventory.yml --dry-run",
)  # fmt: skip
def import_servers(args: argparse.Namespace, home: Home) -> int:
    """Register the servers of an ssh configuration or of an Ansible inventory; says what it skipped and why.

    No host is contacted, and no server that is registered already is changed. Private keys are not taken over: the relay logs in with
    its own (`fleetshell pubkey --install` puts it there).
    """
    config = home.config()
    inventory = Inventory(home.servers, config.defaults)
    path = Path(os.path.abspath(os.path.expanduser(args.file or "~/.ssh/config")))
    found, remarks = _read(path)
    with storage.locked(home.path / ".servers.lock"):
        _settle(found, inventory)
        new = [host for host in found if not host.skipped]
        if not args.dry_run and new:
            from fleetshell_tools.offline import record

            for host in new:
                record(
                    home, config, "server_added", "import", server_id=host.data["id"], hostname=host.data["hostname"]
                )
                servers.write(inventory.path(host.data["id"]), host.data)
    _show(found, remarks, path, args)
    return 0


def _show(found: list[Found], remarks: list[str], path: Path, args: argparse.Namespace) -> None:
    new = [host for host in found if not host.skipped]
    skipped = [host for host in found if host.skipped]
    if args.json:
        output.print_json({"source": str(path), "dry_run": args.dry_run, "added": [host.data for host in new],
                           "skipped": [{"name": host.name, "reason": host.skipped} for host in skipped], "remarks": remarks})  # fmt: skip
        return
    if new:
        rows = [[host.data["id"], host.data["hostname"], str(host.data.get("ssh_user", "")), str(host.data.get("ssh_port", 22)),
                 ", ".join(host.data.get("tags", []))] for host in new]  # fmt: skip
        print(output.table(["ID", "Hostname", "User", "Port", "Tags"], rows))
    if skipped:
        print(f"{chr(10) if new else ''}Skipped:")
        for host in skipped:
            print(f"  {one_line(host.name, 80)}: {one_line(host.skipped, 500)}")
    for remark in remarks:
        print(f"\n{remark}")
    if args.dry_run:
        print(f"\n{len(new)} would be added from {path}, {len(skipped)} skipped. Nothing was changed.")
    else:
        print(f"\n{len(new)} added from {path}, {len(skipped)} skipped.")
    if new and not args.dry_run:
        print("Next: `fleetshell pubkey --install --all`, then `fleetshell test --all`.")


def _read(path: Path) -> tuple[list[Found], list[str]]:
    """The hosts of a file of any of the three kinds, and remarks about the file as a whole."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror}. Name an ssh configuration or an Ansible inventory."
        ) from None
    if re.search(r"^\s*(?:Host|Match|Include)[\s=]", text, re.MULTILINE | re.IGNORECASE) or path.name in (
        "config",
        "ssh_config",
    ):
        return _of_ssh(path)
    remarks = [
        f"{name} beside it was not read: what it sets is missing here."
        for name in ("group_vars", "host_vars")
        if (path.parent / name).is_dir()
    ]
    return [_of_ansible(host) for host in ansible.read(text, str(path))], remarks


def _of_ssh(path: Path) -> tuple[list[Found], list[str]]:
    names, patterns = ssh_hosts.aliases(path)
    defaults = ssh_hosts.resolved(None, "fleetshell-has-no-such-host")
    found = []
    for name in names:
        try:
            found.append(_of_alias(name, ssh_hosts.resolved(path, name), defaults))
        except FleetShellError as error:
            found.append(Found(name, skipped=error.message))
    inner = [pattern for pattern in patterns if pattern != "*"]
    remarks = (
        [f"Patterns name no single host: {', '.join(inner)}. What they set was applied to the hosts above."]
        if inner
        else []
    )
    return found, remarks


def _of_alias(name: str, settings: dict[str, str], defaults: dict[str, str]) -> Found:
    user, port = settings.get("user", ""), settings.get("port", "22")
    command_ = settings.get("proxycommand", "none")
    if user in CODE_HOSTS:
        return Found(name, skipped=f"the login user {user} is one of a host that keeps code and gives no shell")
    if command_ != "none":
        return Found(name, skipped=f"it is reached by a ProxyCommand ({command_}). Add it with `fleetshell add-server --no-verify` and set `use_ssh_config: {name}` with `fleetshell edit`")  # fmt: skip
    data: dict[str, Any] = {"id": name, "hostname": settings.get("hostname", name)}
    if user:
        data["ssh_user"] = user
    if port != "22":
        data["ssh_port"] = int(port)
    more = ssh_hosts.options(settings, defaults)
    if more:
        data["ssh_options"] = more
    jump = settings.get("proxyjump", "none")
    return Found(name, data, jump="" if jump == "none" else jump)


def _of_ansible(host: ansible.Host) -> Found:
    variables = host.variables
    kind = str(variables.get("ansible_connection", "ssh"))
    if kind not in ("ssh", "smart", "paramiko", "paramiko_ssh", "libssh", "ansible.netcommon.libssh"):
        return Found(host.name, skipped=NO_SSH.format(kind))
    address = str(_first(variables, "ansible_host", "ansible_ssh_host") or host.name)
    user = _first(variables, "ansible_user", "ansible_ssh_user")
    port = _first(variables, "ansible_port", "ansible_ssh_port")
    jump = _jump_of(
        " ".join(str(variables.get(name, "")) for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args"))
    )
    template = next((str(value) for value in (address, user, port, jump) if "{{" in str(value)), "")
    if template:
        return Found(host.name, skipped=f"a template stands there which only Ansible can fill in: {template}")
    data: dict[str, Any] = {"id": host.name, "hostname": address}
    if user:
        data["ssh_user"] = str(user)
    if port and str(port) != "22":
        data["ssh_port"] = int(port) if str(port).isdecimal() else port
    if host.groups:
        data["tags"] = list(host.groups)
    environment = next(
        (ENVIRONMENTS[name.lower()] for name in reversed(host.groups) if name.lower() in ENVIRONMENTS), None
    )
    if environment:
        data["context"] = {"environment": environment}
    if str(variables.get("ansible_become", "")).lower() in ("true", "yes", "1"):
        data["sudo"] = True
    return Found(host.name, data, jump=jump)


def _first(variables: Any, *names: str) -> Any:
    return next((variables[name] for name in names if variables.get(name) not in (None, "")), None)


def _jump_of(arguments: str) -> str:
    """The jump server in ssh's arguments: `-J X`, `-JX` or `-o ProxyJump=X`."""
    if "{{" in arguments:
        return arguments if "proxy" in arguments.lower() or "-J" in arguments else ""
    try:
        words = shlex.split(arguments)
    except ValueError:
        return ""
    text = "\n".join(words)
    found = re.search(r"^-J\n?(\S+)|^(?:-o\n?)?ProxyJump[ =](\S+)", text, re.MULTILINE | re.IGNORECASE)
    return (found[1] or found[2]) if found else ""


def _settle(found: list[Found], inventory: Inventory) -> None:
    """Decide which hosts can be registered; a host whose jump server is skipped goes with it."""
    taken = set(inventory.ids())
    for host in found:
        if host.skipped:
            continue
        name = host.data["id"]
        if name in taken or os.path.lexists(inventory.path(name)):
            host.skipped = "there is already a server with that id, and it stays as it is"
        elif not re.fullmatch(SERVER_ID, name):
            host.skipped = "the name is no id (letters, digits, `.`, `_`, `-`, at most 64)"
        taken.add(name)
    known = {host.name: host.data["id"] for host in found if host.data}
    for host in found:
        if not host.skipped and host.jump:
            target = _jump_id(host.jump, known, found, inventory)
            if target is None:
                host.skipped = (
                    f"its jump server {host.jump} is no single host of this file and is not registered; add it first"
                )
            else:
                host.data["jump"] = target
        _check(host)
    _drop_without_jump(found, inventory)


def _check(host: Found) -> None:
    if host.skipped:
        return
    try:
        servers.parse(yamlfile.dump(host.data), "it", host.data["id"])
    except ConfigError as error:
        host.skipped = error.message.partition(": ")[2] or error.message


def _drop_without_jump(found: list[Found], inventory: Inventory) -> None:
    registered = set(inventory.ids())
    while True:
        good = registered | {host.data["id"] for host in found if not host.skipped}
        bad = [host for host in found if not host.skipped and host.data.get("jump", host.data["id"]) not in good]
        if not bad:
            return
        for host in bad:
            host.skipped = f"its jump server {host.data['jump']} was skipped"


def _jump_id(jump: str, known: dict[str, str], found: Iterable[Found], inventory: Inventory) -> str | None:
    """The id of the server that a ProxyJump means: an alias, or a host with the same address, user and port."""
    if "," in jump:
        return None
    match = re.fullmatch(r"(?:ssh://)?(?:([^@]+)@)?(\[[^\]]+\]|[^:]+)(?::([0-9]+))?/?", jump)
    if match is None:
        return None
    user, host, port = match[1], match[2], int(match[3] or 0)
    if user is None and not port and host in known:
        return known[host]
    for candidate in [other.data for other in found if other.data]:
        if _same(candidate, user, host, port, str(candidate["id"])):
            return str(candidate["id"])
    for server in inventory.all():
        data = {"hostname": server.hostname, "ssh_user": inventory.user(server), "ssh_port": inventory.port(server)}
        if _same(data, user, host, port, server.id):
            return server.id
    return None


def _same(data: dict[str, Any], user: str | None, host: str, port: int, name: str) -> bool:
    matches: Callable[[Any, Any], bool] = lambda asked, there: not asked or asked == there  # noqa: E731
    return (
        host in (data["hostname"], name)
        and matches(user, data.get("ssh_user"))
        and matches(port, data.get("ssh_port", 22))
    )


COMMANDS = (import_servers,)
