"""`service`: a hardened systemd unit for this installation and home, and lines of sudoers for the servers."""

from __future__ import annotations

import argparse
import os
import pwd
import re
import sys
from pathlib import Path

from fleetshell_tools.cli.command import Arg, command
from fleetshell_tools.core import installation, known_services
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import FleetShellError, UsageError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.servers import Inventory

UNIT = "fleetshell.service"

_GENERAL = """\
[Unit]
Description=FleetShell MCP Relay Server
After=network.target{online}

[Service]
# It says itself when it serves, and is started again when its loop has stood still for a minute.
Type=notify
WatchdogSec=60
{user}WorkingDirectory={home}
Environment="PATH={path}"
# What external MCP servers keep on disk goes into the home, the only place that can be written.
Environment="npm_config_cache={home}/cache/npm" "XDG_CACHE_HOME={home}/cache"
ExecStart={program} serve
ExecReload={program} reload
Restart=always
RestartSec=5
# Running commands get relay.stop_seconds ({grace} now), so SSH connections must not be ended beside the relay.
KillMode=mixed
TimeoutStopSec={stop}
LimitNOFILE=65536
TasksMax=8192
MemoryMax=80%
# A single external server or connection that the kernel ends for memory does not take the relay with it.
OOMPolicy=continue
"""

_HARDENING = """\

# Security hardening
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
UMask=0077
{capabilities}PrivateDevices=yes
DevicePolicy=closed
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictNamespaces=yes
"""

_FILTERS = """\
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
# MemoryDenyWriteExecute is not set: Node.js, which many external MCP servers need, compiles at run time.
"""

_SUDOERS = """\
# What FleetShell's tools ask sudo for on a server whose file says `sudo: true`.
# Put this into /etc/sudoers.d/fleetshell on that server, and check it there: visudo -cf /etc/sudoers.d/fleetshell
# Other tools then work without root. Logs below /var/log need no sudo where the login is in their group:
#   usermod -aG adm,systemd-journal {login}

# get_service_status, search_logs, tail_logs and analyze_logs, of units; NOEXEC keeps a pager from starting a shell.
{logins} ALL=(root) NOPASSWD: NOEXEC: /usr/bin/journalctl --no-pager *, /usr/bin/journalctl --sync

# restart_service
{restarts}

# Files, logs, processes and folder sizes that only root can see: these tools run a shell as root, so this is all that
# root may do. The guard still judges commands, but sudo does not hold anybody back any more.
#{logins} ALL=(root) NOPASSWD: ALL
"""


@command(
    "service",
    Arg("--user", action="store_true", help="a unit for `systemctl --user`: your own service, without root"),
    Arg("--sudoers", action="store_true", help="print lines of sudoers for the servers instead"),
    example="fleetshell service | sudo tee /etc/systemd/system/fleetshell.service",
)
def service(args: argparse.Namespace, home: Home) -> int:
    """Print a hardened systemd unit that runs the relay of this home as the home's owner, or lines of sudoers for the servers."""
    if args.user and args.sudoers:
        raise UsageError("Give --user or --sudoers, not both.")
    config = home.config()
    if args.sudoers:
        print(sudoers(Inventory(home.servers, config.defaults)), end="")
        return 0
    print(user_unit(home, config) if args.user else system_unit(home, config), end="")
    folder = "~/.config/systemd/user" if args.user else "/etc/systemd/system"
    control = "systemctl --user" if args.user else "sudo systemctl"
    linger = (
        "  sudo loginctl enable-linger $(id -un)     # so that it runs while you are not logged in\n"
        if args.user
        else ""
    )
    sys.stdout.flush()
    print(
        f"\nPut this into {folder}/{UNIT}, then:\n  {control} daemon-reload\n  {control} enable --now fleetshell\n{linger}"
        f"  {control} status fleetshell",
        file=sys.stderr,  # so that stdout is the unit alone
    )
    return 0


def system_unit(home: Home, config: Config) -> str:
    """The unit for the system's service manager.

    Raises:
        FleetShellError: The program or the home lies where a service can't see it.
    """
    _check_place(home)
    account = pwd.getpwuid(os.geteuid())
    user = "" if account.pw_uid == 0 else f"User={account.pw_name}\nGroup={_group(account.pw_gid)}\n"
    port = config.relay.http.port
    low = 0 < port < 1024 and account.pw_uid != 0
    capability = "CAP_NET_BIND_SERVICE" if low or account.pw_uid == 0 else ""
    capabilities = f"CapabilityBoundingSet={capability}\n" + (f"AmbientCapabilities={capability}\n" if low else "")
    writable = " ".join(_word(str(path)) for path in _written(home, config))
    general = _general(home, config, user=user)
    hardening = _HARDENING.format(writable=writable, capabilities=capabilities)
    return f"{general}{hardening}{_FILTERS}\n[Install]\nWantedBy=multi-user.target\n"


def user_unit(home: Home, config: Config) -> str:
    """The unit for a user's own service manager, which can filter system calls but not hide folders."""
    general = _general(home, config, user=None)
    return f"{general}\n# Security hardening\nNoNewPrivileges=yes\nUMask=0077\n{_FILTERS}\n[Install]\nWantedBy=default.target\n"


def _general(home: Home, config: Config, *, user: str | None) -> str:
    program = installation.program()
    folders = [
        str(Path(program[0]).parent),
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    command_line = " ".join(_word(word) for word in [*program, "--home", str(home.path)])
    grace = config.relay.stop_seconds
    return _GENERAL.format(
        online=" network-online.target\nWants=network-online.target" if user is not None else "",
        user=user or "",
        home=_escaped(str(home.path)),
        path=_escaped(":".join(dict.fromkeys(folders))),
        program=command_line,
        grace=grace,
        stop=grace + 30,
    )


def _check_place(home: Home) -> None:
    """Refuse what the unit would hide from the relay.

    Raises:
        FleetShellError: The program or the home lies in a folder of which a service has one of its own.
    """
    places = {"FleetShell": installation.evidence(), "Its home": home.path}
    for what, path in places.items():
        for folder in ("/tmp", "/var/tmp"):
            if path.is_relative_to(folder):
                raise FleetShellError(
                    f"{what} lies in {folder} ({path}), where a service sees files of its own alone. Move it to where it can stay."
                )


def _written(home: Home, config: Config) -> list[Path]:
    """The folders that the relay writes into: the home, and where its logs lie."""
    logs = {home.file(name).parent for name in (config.relay.log_file, config.relay.audit_log)}
    return [home.path, *sorted(path for path in logs if not path.is_relative_to(home.path))]


def _escaped(text: str) -> str:
    """Text in a unit file: `%` begins a specifier (systemd.unit(5))."""
    return text.replace("%", "%%")


def _word(text: str) -> str:
    """A word of a unit's command line or list (systemd.syntax(7))."""
    text = _escaped(text)
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$") + '"'


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def sudoers(inventory: Inventory) -> str:
    """Lines for the logins and the services of the registered servers."""
    servers = inventory.all()
    logins = sorted({_literal(server.ssh_user) for server in servers if server.ssh_user not in (None, "root")}) or [
        "LOGIN"
    ]
    units = sorted({_literal(known.unit) for server in servers for known in known_services.listed(server)})
    who = ", ".join(logins)
    restart = "/usr/bin/systemctl --no-block restart"
    lines = [f"{who} ALL=(root) NOPASSWD: {restart} {unit}" for unit in units]
    if not lines:
        lines = [
            f"#{who} ALL=(root) NOPASSWD: {restart} nginx.service",
            "# (One such line for each service of your servers' files.)",
        ]
    return _SUDOERS.format(login=logins[0], logins=who, restarts="\n".join(lines))


def _literal(text: str | None) -> str:
    """A name as sudoers(5) takes it."""
    return re.sub(r"[:,=\\@!]", r"\\\g<0>", text or "")


COMMANDS = (service,)
