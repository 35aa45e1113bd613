"""What ssh printed when a connection failed, turned into an error that a person can act on."""

from __future__ import annotations

import re

from fleetshell_tools.core.errors import Unreachable
from fleetshell_tools.core.text import one_line
from fleetshell_tools.fleet.identity import Identity

_RULES: tuple[tuple[str, str, str], ...] = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED|differs from the key for the IP|Offending \w+ key",
     "host_key",
     "the host key of {id} has changed: it is not the one that FleetShell has pinned. Either the server was rebuilt, or somebody "
     "is in between. Nothing was sent. If you know that it was rebuilt, run `fleetshell trust {id}`."),
    (r"Host key verification failed|No \w+ host key is known",
     "host_key",
     "no host key of {id} is pinned yet. Run `fleetshell trust {id}` to look at it and pin it."),
    (r"Stdio forwarding request failed",
     "connect",
     "its jump server {jump} could not open a connection to {host} port {port}. Is the name right as seen from {jump}, is sshd running "
     "there, and does {jump} allow forwarding (AllowTcpForwarding)?"),
    (r"Could not resolve hostname [^:]*: (?P<why>.*)",
     "resolve",
     "the name {host} could not be resolved ({why}). Check `hostname` in the file of {id}, and the relay's DNS."),
    (r"Connection refused",
     "connect",
     "{host} refuses connections on port {port}. Is sshd running there, and is the port right?"),
    (r"(?P<why>No route to host|Network is unreachable|Host is down)",
     "connect",
     "there is no way to {host} port {port} ({why}). Is the host up, and is it reachable from the relay?"),
    (r"Connection timed out|timed out during banner exchange|Operation timed out",
     "connect",
     "{host} port {port} did not answer within {seconds} s. Is the host up, and does a firewall drop the packets? "
     "`connect_timeout` in its file gives it longer."),
    (r"Permission denied \((?P<why>[^)]*)\)",
     "login",
     "{host} refused the login of FleetShell's key (it offers: {why}). Put the line of `fleetshell pubkey` into "
     "~/.ssh/authorized_keys of the login user there, and check `ssh_user`."),
    (r"Too many authentication failures",
     "login",
     "{host} refused the login (too many attempts). Put the line of `fleetshell pubkey` into ~/.ssh/authorized_keys there."),
    (r"Load key \"?(?P<why>[^\n]*)",
     "login",
     "the private key can't be used: {why}"),
    (r"Unable to negotiate with [^:]*: (?P<why>[^\n]*)",
     "connect",
     "{host} and this OpenSSH have no algorithm in common ({why}). `ssh_options` in the file of {id} can allow an older one."),
    (r"(?P<why>Bad configuration option[^\n]*|unsupported option[^\n]*|bad (?:value|number|time)[^\n]*|Bad (?:SSH2|key|yes)[^\n]*)",
     "connect",
     "ssh does not take the options of {id}: {why}. Correct `ssh_options` in its file."),
    (r"Connection (?:closed|reset) by|kex_exchange_identification|Connection to \S+ closed|banner line",
     "connect",
     "{host} port {port} accepted the connection and then closed it ({last}). The server may be overloaded "
     "(MaxStartups), block the relay's address, or not be an SSH server."),
)  # fmt: skip


class TurnedAway(Unreachable):
    """A server closed the connection before login, perhaps because too many were starting (MaxStartups): worth another try."""


def started_late(stderr: str) -> bool:
    """Whether a server turned us away before login because too many were starting (MaxStartups)."""
    if "Stdio forwarding request failed" in stderr:
        return False  # ssh adds that its connection was closed, but the jump server never made one
    return bool(
        re.search(
            r"kex_exchange_identification|Connection (?:reset|closed) by .* port|banner exchange: .*(?:reset|closed)",
            stderr,
        )
    )


def explain(identity: Identity, stderr: str) -> Unreachable:
    """The error for a connection that ssh could not make."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = one_line(lines[-1], 300) if lines else "ssh said nothing"
    for pattern, step, sentence in _RULES:
        match = re.search(pattern, stderr)
        if match:
            why = one_line(match.groupdict().get("why") or "", 300).rstrip(".")
            text = sentence.format(
                id=identity.server_id, host=identity.hostname, port=identity.port, seconds=identity.connect_timeout, why=why, last=last,
                jump=identity.jump.server_id if identity.jump else "",
            )  # fmt: skip
            late = pattern is _RULES[-1][0] and started_late(stderr)
            return (TurnedAway if late else Unreachable)(f"{identity.server_id} can't be reached: {text}", step=step)
    return Unreachable(f"{identity.server_id} can't be reached: {last}.", step="connect")


def timed_out(identity: Identity) -> Unreachable:
    """The error for a connection that did not come about in time."""
    return explain(identity, "Connection timed out")
