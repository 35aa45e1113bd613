"""`config.yaml`: every key with its type, default, limits and meaning, and reading and changing the file."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from fleetshell_tools.core import schema, storage, yamlfile
from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.core.schema import option

DANGEROUS_DEFAULTS = ("rm -rf /", "dd if=", "mkfs", "shutdown", "reboot")
USER_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}"
SERVER_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


@dataclass(frozen=True)
class HttpAuth:
    api_key: str = option(
        "", "The API key that clients send as `Authorization: Bearer …`; `init` makes one of 256 bits.", secret=True
    )
    previous_api_key: str = option(
        "", "The key before it, which stays valid until previous_until; `auth rotate-key` sets both.", secret=True
    )
    previous_until: str = option(
        "",
        "When previous_api_key ends, in UTC.",
        pattern=r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)?",
        means="a time such as 2030-01-31T12:00:00Z",
    )


@dataclass(frozen=True)
class Http:
    host: str = option("0.0.0.0", "The address to listen on.")
    port: int = option(8080, "The TCP port to listen on.", low=0, high=65535)
    use_tls: bool = option(True, "Serve HTTPS; without it only loopback is listened on.")
    cert_file: str = option("certs/cert.pem", "The certificate, with its chain where it has one, as PEM.")
    key_file: str = option("certs/key.pem", "The certificate's private key as PEM.")
    allowed_hosts: tuple[str, ...] = option(
        (), "More host names for the Host check; IP addresses and the certificate's names always pass."
    )
    max_connections: int = option(2048, "Connections at once.", low=8, high=65536)
    max_unproven_per_address: int = option(
        64,
        "Connections from one address that have not shown a valid key; the oldest is dropped first.",
        low=1,
        high=65536,
    )
    auth: HttpAuth = field(default_factory=HttpAuth, metadata={"doc": "Authentication of clients."})


@dataclass(frozen=True)
class Relay:
    private_key: str = option("relay.key", "The relay's SSH private key.")
    public_key: str = option("relay.pub", "The relay's SSH public key.")
    log_level: str = option("INFO", "How much the relay's log says.", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    log_file: str = option("logs/relay.log", "The relay's log.")
    audit_log: str = option("logs/audit.log", "The audit log.")
    stop_seconds: int = option(
        10, "Seconds that running commands get when the relay stops, before they are ended.", low=0, high=3600
    )
    http: Http = field(default_factory=Http, metadata={"doc": "The HTTPS endpoint."})


@dataclass(frozen=True)
class Mfa:
    enabled: bool = option(True, "Ask for a TOTP code before any tool but `authenticate`.")
    totp_secret: str = option(
        "",
        "The TOTP secret, base32; `init` makes one of 160 bits.",
        pattern=r"[A-Za-z2-7 =]*",
        means="base32 (A-Z and 2-7)",
        secret=True,
    )
    session_lifetime: int = option(3600, "Seconds that an authentication lasts, absolute.", low=60, high=86400)
    grant_scope: str = option(
        "session",
        "`session`: each client authenticates; `key`: one code unlocks every client of the key.",
        choices=("session", "key"),
    )
    locked_as: str = option(
        "error",
        "How a locked call is answered: as a JSON-RPC `error`, or as a `tool_error` for clients that hide errors from the model.",
        choices=("error", "tool_error"),
    )


@dataclass(frozen=True)
class Security:
    command_timeout: int = option(60, "Default time limit of a command, in seconds.", low=1, high=86400)
    max_timeout: int = option(3600, "The longest time limit that a call may ask for, in seconds.", low=1, high=604800)
    max_command_length: int = option(5000, "The longest command, in characters.", low=1, high=100_000)
    max_output_bytes: int = option(
        16384,
        "The most output that one call returns, in bytes; beyond it head and tail are kept.",
        low=1024,
        high=1_000_000,
    )
    max_drain_bytes: int = option(268_435_456, "A command that printed this many bytes is ended.", low=65536)
    dangerous_commands: tuple[str, ...] = option(
        DANGEROUS_DEFAULTS,
        "What is blocked: the five default words name classes of the guard, other text is an argv prefix, `re:…` a regular expression.",
    )
    guard: dict[str, str] = option(
        factory=dict,
        doc="Per class of the guard: never, approvable or allow.",
        choices=("never", "approvable", "allow"),
    )
    restart_critical: str = option(
        "allow",
        "Whether restart_service restarts what a server's file marks `critical: true`: allow, approval (the operator is asked) or never.",
        choices=("allow", "approval", "never"),
    )
    audit_max_bytes: int = option(
        67_108_864,
        "The size at which the audit log is rotated, in bytes; 0: never.",
        low=0,
        high=1 << 40,
    )
    audit_keep: int = option(
        10, "Rotated files of the audit log that are kept; the oldest goes first; 0: all are kept.", low=0, high=10_000
    )
    allow_local: bool = option(False, "Allow servers with `connection: local`, which run commands on the relay itself.")


@dataclass(frozen=True)
class Ssh:
    connect_timeout: int = option(10, "Seconds to wait for a connection, login included.", low=1, high=300)
    max_parallel: int = option(256, "Servers that one call works on at once.", low=1, high=1024)
    max_starting: int = option(32, "Connections that start at once.", low=1, high=256)
    sessions_per_server: int = option(8, "Commands at once on one server; more wait in a queue.", low=1, high=64)
    max_connections: int = option(
        512, "SSH connections at once; beyond it the one that was idle longest is closed.", low=1, high=65536
    )
    idle_seconds: int = option(600, "An SSH connection without work for this long is closed.", low=5, high=86400)
    alive_interval: int = option(
        15, "Seconds between keep-alive messages; three unanswered ones end a connection.", low=1, high=3600
    )


@dataclass(frozen=True)
class Sessions:
    """Shell sessions."""

    idle_seconds: int = option(
        1800, "Seconds without a command after which a shell session is ended.", low=10, high=604800
    )
    per_server: int = option(
        8, "Shell sessions at once on one server; two of ssh.sessions_per_server stay free.", low=1, high=64
    )
    total: int = option(64, "Shell sessions at once on all servers.", low=1, high=4096)


@dataclass(frozen=True)
class Jobs:
    """Commands that go on after their client was answered, and output kept for reading on."""

    hand_over_seconds: int = option(
        45,
        "Seconds after which a call is answered with what there is, and its command goes on as a job.",
        low=1,
        high=3600,
    )
    running: int = option(
        16, "Jobs of one API key that run at once; beyond it clients wait for the end.", low=0, high=256
    )
    kept: int = option(
        64, "Jobs of one API key in all, running and ended; the oldest ended one goes first.", low=1, high=4096
    )
    memory_bytes: int = option(
        67_108_864, "Memory for the output of all ended jobs; the oldest goes first.", low=65536, high=4_294_967_296
    )
    keep_seconds: int = option(3600, "Seconds that the output of an ended job is kept.", low=10, high=604800)
    output_bytes: int = option(
        1_048_576, "Output kept of each stream, in bytes: half at either end; shared by the servers of one call.",
        low=32768, high=67_108_864,
    )  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """How often clients may call; what exceeds it is answered with the seconds to wait. 0 means without a limit."""

    calls_per_minute: int = option(
        6000, "Calls of one API key in a minute, all its clients together; `list_servers` does not count.", low=0, high=10_000_000
    )  # fmt: skip
    session_calls_per_minute: int = option(3000, "Calls of one client in a minute.", low=0, high=10_000_000)
    authentications_per_minute: int = option(
        30, "Codes of one API key that are looked at in a minute, besides the lock-out after wrong ones.", low=0, high=10_000
    )  # fmt: skip


@dataclass(frozen=True)
class External:
    """External MCP servers."""

    server_bytes: int = option(
        8192, "Tool definitions of one server that are listed directly, in bytes; larger ones are reached through call_external_tool.",
        low=0, high=10_000_000,
    )  # fmt: skip
    total_bytes: int = option(
        24576, "Tool definitions of all servers that are listed directly, in bytes.", low=0, high=100_000_000
    )
    idle_seconds: int = option(
        900, "Seconds without a call after which a server without `auto_start` is stopped.", low=10, high=604800
    )
    max_parallel: int = option(64, "Calls at once to one server; more are refused.", low=1, high=4096)


@dataclass(frozen=True)
class Protocol:
    sessions_per_key: int = option(64, "MCP sessions that one API key may have at once.", low=1, high=10_000)
    session_idle: int = option(3600, "Seconds after which an MCP session without requests ends.", low=60, high=604800)
    modern: bool = option(
        True, "Serve protocol version 2026-07-28, which has no sessions; without it clients use `initialize`."
    )


@dataclass(frozen=True)
class Defaults:
    """What every server file starts from."""

    ssh_user: str | None = option(
        None, "Login user of servers whose file names none.", pattern=USER_NAME, means="a user name"
    )
    ssh_port: int | None = option(None, "SSH port of servers whose file names none.", low=1, high=65535)
    jump: str | None = option(
        None, "Jump server (an id) of servers whose file names none.", pattern=SERVER_ID, means="a server's id"
    )
    policy: str = option(
        "normal",
        "What may run on servers whose file does not say: normal, read_only or allow_list.",
        choices=("normal", "read_only", "allow_list"),
    )


@dataclass(frozen=True)
class Config:
    """The whole of `config.yaml`; every key has a default."""

    relay: Relay = field(default_factory=Relay, metadata={"doc": "The relay itself."})
    mfa: Mfa = field(default_factory=Mfa, metadata={"doc": "Two-factor authentication."})
    security: Security = field(default_factory=Security, metadata={"doc": "Limits and the guard."})
    ssh: Ssh = field(default_factory=Ssh, metadata={"doc": "Connections to servers."})
    sessions: Sessions = field(default_factory=Sessions, metadata={"doc": "Shell sessions."})
    jobs: Jobs = field(default_factory=Jobs, metadata={"doc": "Commands that outlive their client's patience."})
    limits: Limits = field(default_factory=Limits, metadata={"doc": "How often clients may call."})
    external: External = field(default_factory=External, metadata={"doc": "External MCP servers."})
    protocol: Protocol = field(default_factory=Protocol, metadata={"doc": "MCP sessions."})
    defaults: Defaults = field(default_factory=Defaults, metadata={"doc": "What every server file starts from."})


def load(path: Path) -> Config:
    """Read and check `config.yaml`.

    Raises:
        ConfigError: Missing, readable by others, invalid YAML, an unknown key, a wrong type, an impossible value.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist. Run `fleetshell init` to create it.")
    storage.check_secret(path)
    document = yamlfile.read(path)
    config = schema.build(Config, document.data, document)
    _check(config, document)
    return config


def _check(config: Config, document: yamlfile.Document) -> None:
    """What no single key can tell."""
    if config.security.command_timeout > config.security.max_timeout:
        raise document.error(
            ("security", "command_timeout"),
            f"security.command_timeout ({config.security.command_timeout}) is larger "
            f"than security.max_timeout ({config.security.max_timeout}).",
        )
    keys = config.relay.http.auth
    if 0 < len(keys.api_key) < 16:
        raise document.error(
            ("relay", "http", "auth", "api_key"),
            "relay.http.auth.api_key is shorter than 16 characters; remove the "
            "line and run `fleetshell init` to get a key of 256 bits.",
        )
    if 0 < len(keys.previous_api_key) < 16:
        raise document.error(
            ("relay", "http", "auth", "previous_api_key"),
            "relay.http.auth.previous_api_key is shorter than 16 characters; remove the line.",
        )
    try:
        moment(keys.previous_until)
    except ValueError:
        raise document.error(
            ("relay", "http", "auth", "previous_until"),
            f"relay.http.auth.previous_until is {keys.previous_until}, which is no day or time that there is.",
        ) from None
    secret = config.mfa.totp_secret.replace(" ", "").rstrip("=").upper()
    try:
        base64.b32decode(secret + "=" * (-len(secret) % 8))
    except ValueError:
        raise document.error(
            ("mfa", "totp_secret"),
            "mfa.totp_secret is not base32 of a whole length; remove the line and run `fleetshell auth setup` to get a new one.",
        ) from None


def moment(text: str) -> float:
    """A time such as 2030-01-31T12:00:00Z in Unix seconds; the beginning of all times for none.

    Raises:
        ValueError: There is no such day or time.
    """
    if not text:
        return 0.0
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()


def set_value(path: Path, key: str, value: object) -> None:
    """Set one dotted `key` of the file, keeping comments and order; see `set_values`."""
    set_values(path, {key: value})


def set_values(path: Path, values: Mapping[str, object]) -> None:
    """Set dotted keys of the file, keeping comments and order: all of them at once, atomic, and under a lock.

    Raises:
        ConfigError: The file is invalid before or would be after.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist. Run `fleetshell init` to create it.")
    with storage.locked(path.with_name(".config.lock")):
        storage.check_secret(path)
        new = yamlfile.read_text(path)
        for key, value in values.items():
            new = yamlfile.set_value(new, tuple(key.split(".")), value, str(path))
        document = yamlfile.parse(new, str(path))
        _check(schema.build(Config, document.data, document), document)
        storage.write_atomic(path, new)


def expand(value: str, home: Path) -> Path:
    """A path of the configuration: `~` is the user's home folder, a relative one lies in FleetShell's home."""
    return home / os.path.expanduser(value)
