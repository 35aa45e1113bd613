"""`connect-info`: what to paste into a client, with the real address and key, and how the certificate gets there."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import pwd
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.text import one_line

MCP_REMOTE = "mcp-remote@0.15.1"
"""The version whose behaviour with this relay is known."""


@dataclass(frozen=True)
class _System:
    """A client's operating system.

    Args:
        certificate: The absolute path of the copied certificate: neither `~` nor variables work where it is used.
        typed: The same path as it is typed in a terminal there.
        export: The command that sets NODE_EXTRA_CA_CERTS.
    """

    name: str
    desktop_file: str
    certificate: str
    typed: str
    export: str


_PROFILE = "put this line into your shell's start-up file too, for it must be set whenever Claude Code starts:\n\n   export NODE_EXTRA_CA_CERTS="
SYSTEMS = {
    "macos": _System(
        "macOS", "~/Library/Application Support/Claude/claude_desktop_config.json",
        "/Users/YOU/fleetshell-cert.pem", "~/fleetshell-cert.pem", _PROFILE,
    ),
    "windows": _System(
        "Windows", r"%APPDATA%\Claude\claude_desktop_config.json",
        r"C:\Users\YOU\fleetshell-cert.pem", r"C:\Users\YOU\fleetshell-cert.pem", "then open a new terminal:\n\n   setx NODE_EXTRA_CA_CERTS ",
    ),
    "linux": _System(
        "Linux", "~/.config/Claude/claude_desktop_config.json",
        "/home/YOU/fleetshell-cert.pem", "~/fleetshell-cert.pem", _PROFILE,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Target:
    """What a client has to know; `certificate` is the file to copy to it, None where it needs none."""

    scheme: str
    host: str
    port: int
    api_key: str
    certificate: Path | None = None

    @property
    def url_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.url_host}:{self.port}/mcp"


def host_name(text: str) -> str:
    """A host name in lower case, or an address in its usual form.

    Raises:
        argparse.ArgumentTypeError: It is neither.
    """
    try:
        address = ipaddress.ip_address(text.strip("[]"))
        if "%" not in text:
            return str(address)
    except ValueError:
        if re.fullmatch(r"(\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", text):
            return text.lower()
    raise argparse.ArgumentTypeError(f'"{one_line(text, 80)}" is neither a host name nor an IP address')


CLIENT_OPTIONS = (
    Arg("--client", choices=("claude-desktop", "claude-code"), default="claude-desktop", help="the client (default claude-desktop)"),
    Arg("--os", choices=tuple(SYSTEMS), default="linux", help="the client's operating system (default linux)"),
    Arg("--host", type=host_name, metavar="H", help="the name or address under which the client reaches the relay (default: the certificate's)"),
    Arg("--cert", metavar="PATH", help="where the copied certificate will lie on the client's machine, as an absolute path"),
)  # fmt: skip


@command(
    "connect-info",
    *CLIENT_OPTIONS,
    JSON,
    example="fleetshell connect-info --client claude-desktop --os macos",
)
def connect_info(args: argparse.Namespace, home: Home) -> int:
    """Print the configuration of a client, ready to paste; it holds the API key."""
    target = _target(home, home.config(), args.host)
    output.warn("this output holds the API key; treat it like a password.")
    if args.json:
        output.print_json(_settings(target, args))
    else:
        _print_steps(target, args)
    return 0


def show(home: Home, args: argparse.Namespace, api_key: str) -> None:
    """Print the configuration of a client whose key is not that of `config.yaml`, step by step."""
    _print_steps(_target(home, home.config(), args.host, api_key), args)


def _settings(target: _Target, args: argparse.Namespace) -> dict[str, Any]:
    copied = (args.cert or SYSTEMS[args.os].certificate) if target.certificate else None
    desktop = args.client == "claude-desktop"
    return {"mcpServers": {"fleetshell": _desktop(target, copied) if desktop else _code(target)}}


def _print_steps(target: _Target, args: argparse.Namespace) -> None:
    system, settings = SYSTEMS[args.os], _settings(target, args)
    copied = (args.cert or system.certificate) if target.certificate else None
    desktop = args.client == "claude-desktop"
    steps = [_copying(target, system, args.cert)] if target.certificate else []
    steps += _desktop_steps(settings, system, copied) if desktop else _code_steps(target, system, args.cert)
    for number, step in enumerate(steps, start=1):
        print(f"{number}. {step}\n")
    if target.scheme == "https" and not copied:
        print(
            "The relay's certificate is signed by a CA. If that is a private one, set NODE_EXTRA_CA_CERTS to its certificate.\n"
        )
    print(
        'Then ask, for example: "List all my servers". The assistant will want the code that your authenticator app shows.'
    )


def desktop_settings(home: Home, api_key: str = "") -> dict[str, Any]:
    """The configuration of Claude Desktop on Linux, as `connect-info` prints it.

    Args:
        api_key: Another key than that of `config.yaml`.

    Raises:
        ConfigError: There is no key, or no certificate.
    """
    target = _target(home, home.config(), None, api_key)
    copied = SYSTEMS["linux"].certificate if target.certificate else None
    return {"mcpServers": {"fleetshell": _desktop(target, copied)}}


def covers(names: tuple[str, ...], addresses: tuple[str, ...], host: str) -> bool:
    """Whether a certificate with these names and addresses is good for a host."""
    return host in (*names, *addresses) or f"*.{host.partition('.')[2]}" in names


def _target(home: Home, config: Config, host: str | None, api_key: str = "") -> _Target:
    http = config.relay.http
    key = api_key or http.auth.api_key
    if not key:
        raise ConfigError("config.yaml has no API key (relay.http.auth.api_key). Run `fleetshell init` to create one.")
    if not http.use_tls:
        output.warn(
            "relay.http.use_tls is false, so the API key travels in clear. `serve` listens on this machine alone unless it is given --host; "
            "where a proxy adds TLS, write the proxy's https:// address in place of the URL."
        )
        return _Target("http", host or "localhost", http.port, key)
    from fleetshell_tools.offline import is_self_signed, read_certificate

    path = home.file(http.cert_file)
    certificate = read_certificate(path)
    if host and not covers(certificate.names, certificate.addresses, host):
        output.warn(
            f"the certificate does not name {host}, so clients will refuse it. Run `fleetshell init --renew-cert --hostname {host}` first."
        )
    host = host or _best(certificate.names, certificate.addresses)
    return _Target("https", host, http.port, key, path if is_self_signed(path) else None)


def _best(names: tuple[str, ...], addresses: tuple[str, ...]) -> str:
    """The name or address of a certificate under which other machines most likely reach this one."""
    usable = [name for name in names if not name.startswith(("localhost", "*"))]
    full = [name for name in usable if "." in name]
    elsewhere = [address for address in addresses if not ipaddress.ip_address(address).is_loopback]
    # `init` names this machine's own addresses after loopback's: one that stands first was asked for.
    given = [address for address in addresses[:1] if address in elsewhere]
    return [*full, *given, *usable, *elsewhere, "localhost"][0]


def _desktop(target: _Target, copied: str | None) -> dict[str, Any]:
    """The entry for Claude Desktop, which reaches a remote server through mcp-remote."""
    arguments = ["-y", MCP_REMOTE, target.url]
    if target.scheme == "http" and target.host not in ("localhost", "127.0.0.1"):
        arguments.append("--allow-http")
    # Claude Desktop on Windows breaks arguments at spaces, so the header's one comes from the environment.
    arguments += ["--header", "Authorization:${AUTH}"]
    environment = {"AUTH": f"Bearer {target.api_key}", **({"NODE_EXTRA_CA_CERTS": copied} if copied else {})}
    return {"command": "npx", "args": arguments, "env": environment}


def _code(target: _Target) -> dict[str, Any]:
    """The entry for Claude Code, which speaks HTTP itself, as it may stand in `.mcp.json`."""
    return {"type": "http", "url": target.url, "headers": {"Authorization": f"Bearer {target.api_key}"}}


def _copying(target: _Target, system: _System, wanted: str | None) -> str:
    user = pwd.getpwuid(os.geteuid()).pw_name
    source = shlex.quote(f"{user}@{target.url_host}:{target.certificate}")
    to = _typed(system, wanted)
    hint = ", your user name there in place of YOU" if "YOU" in to else ""
    return f"Copy the relay's certificate (it is no secret); in a terminal on the client's machine{hint}:\n\n   scp {source} {to}"


def _typed(system: _System, wanted: str | None) -> str:
    """The path of the copy as it is typed in a terminal, in quotes where it needs some."""
    return f'"{wanted}"' if wanted and re.search(r"\s", wanted) else wanted or system.typed


def _desktop_steps(settings: dict[str, Any], system: _System, copied: str | None) -> list[str]:
    steps = [
        f"Put this into {system.desktop_file} ({system.name}). Make the file where there is none; where it has\n"
        f'   "mcpServers" already, add the entry "fleetshell" there:\n\n{json.dumps(settings, indent=2)}'
    ]
    if copied and "YOU" in copied:
        steps.append(f"In it, write your user name in place of YOU: {copied} must be the copy's absolute path.")
    return [*steps, "Restart Claude Desktop. That machine needs Node.js, for npx."]


def _code_steps(target: _Target, system: _System, wanted: str | None) -> list[str]:
    trust = [f"Let Claude Code trust it; {system.export}{_typed(system, wanted)}"] if target.certificate else []
    header = f"Authorization: Bearer {target.api_key}"
    return [
        *trust,
        f'Add the relay to Claude Code:\n\n   claude mcp add --transport http fleetshell {target.url} --header "{header}"',
    ]


COMMANDS = (connect_info,)
