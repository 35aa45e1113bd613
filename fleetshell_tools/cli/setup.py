"""`init`: making a home, or completing one; what is there already stays as it is."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.auth import tell_relay, totp_block, totp_facts, writing
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.cli.connect import covers, host_name
from fleetshell_tools.core import config as configuration
from fleetshell_tools.core import storage, yamlfile
from fleetshell_tools.core.audit import create_key
from fleetshell_tools.core.config import DANGEROUS_DEFAULTS, Config
from fleetshell_tools.core.errors import ConfigError, FleetShellError
from fleetshell_tools.core.home import FOLDERS, Home

CONFIG = """\
# FleetShell's configuration. After a change, `fleetshell reload` makes a running relay read it again.
# This file holds secrets: keep it to yourself (mode 600).

relay:
  # The SSH key pair of this relay: your servers let in the public one.
  private_key: {private_key}
  public_key: {public_key}
  # DEBUG, INFO, WARNING or ERROR
  log_level: INFO
  log_file: {log_file}
  audit_log: {audit_log}
  http:
    # The address and the TCP port on which MCP clients reach the relay.
    host: 0.0.0.0
    port: 8080
    use_tls: true
    cert_file: {cert_file}
    key_file: {key_file}
    # More host names under which clients come, such as a proxy's; the certificate's are always allowed.
    allowed_hosts: []
    auth:
      # What clients send as `Authorization: Bearer …`; `fleetshell connect-info` shows where it goes.
      api_key: {api_key}

# Two-factor authentication: a code from an authenticator app unlocks the tools.
mfa:
  enabled: true
  # Base32; `fleetshell auth setup` shows it as a QR code.
  totp_secret: {totp_secret}
  # How long a code unlocks, in seconds.
  session_lifetime: 3600
  # session: each client needs a code of its own; key: one code unlocks every client of the same key
  grant_scope: session
  # How a locked call is answered: error, or tool_error for clients that hide errors from the model.
  locked_as: error

security:
  # A command's time limit, and the longest that a call may ask for, in seconds.
  command_timeout: 60
  max_timeout: 3600
  # The longest command, in characters.
  max_command_length: 5000
  # These five name whole classes of the guard; other text is the beginning of a command, `re:…` a regular expression.
  dangerous_commands: {dangerous_commands}
"""
_FILES = {
    "private_key": "relay.key", "public_key": "relay.pub", "log_file": "logs/relay.log", "audit_log": "logs/audit.log",
    "cert_file": "certs/cert.pem", "key_file": "certs/key.pem",
}  # fmt: skip
_SOON = timedelta(days=30)


@dataclass
class _Report:
    """What happened to each file, by its name in the home."""

    home: Home
    items: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, state: str, path: Path | str, remark: str = "") -> None:
        """Note that a file was `created`, `kept`, `completed` or `renewed`."""
        name = str(
            path.relative_to(self.home.path) if isinstance(path, Path) and path.is_relative_to(self.home.path) else path
        )
        self.items.append((state, name, remark))

    def having(self, *states: str) -> list[str]:
        return [name for state, name, _ in self.items if state in states]

    def __str__(self) -> str:
        folders: dict[str, list[str]] = {}
        for state, name, _ in self.items:
            if name.endswith("/"):
                folders.setdefault(state, []).append(name)
        lines = [(state, " ".join(names), "") for state, names in folders.items()] + [
            item for item in self.items if not item[1].endswith("/")
        ]
        return "\n".join(f"  {state:<10}{name}{f' ({remark})' if remark else ''}" for state, name, remark in lines)


@command(
    "init",
    Arg("--hostname", action="append", default=[], type=host_name, metavar="H",
        help="a name or address under which clients reach this machine, for the certificate; may be given several times"),
    Arg("--force", action="store_true", help="make a new config.yaml (the old one is kept aside) and a new certificate; never touches relay.key"),
    Arg("--renew-cert", action="store_true", help="make a new certificate with the names of the old one and of --hostname"),
    JSON,
    example="fleetshell init --hostname relay.example.com",
)  # fmt: skip
def init(args: argparse.Namespace, home: Home) -> int:
    """Create the home: folders, SSH key, certificate, API key and TOTP secret.

    Run again, it keeps what exists and creates what is missing; a config.yaml of an older version gets the keys that are new.
    """
    report = _Report(home)
    mask = os.umask(0o077)
    try:
        with writing(home):
            _folders(home, report)
            with storage.locked(home.run / "init.lock"):
                line, secret = _make(home, args, report)
    finally:
        os.umask(mask)
    took_over = _told(home) if report.having("created", "renewed", "completed") else ""
    if args.json:
        output.print_json(
            {"home": str(home.path), "created": report.having("created"), "kept": report.having("kept"),
             "renewed": report.having("renewed", "completed"), "public_key": line, "totp": totp_facts(secret) if secret else None}
        )  # fmt: skip
        return 0
    print(f"FleetShell's home is {home.path}:\n{report}\n")
    if took_over:
        print(f"{took_over}\n")
    print(
        totp_block(secret)
        if secret
        else "The TOTP secret is the one from before; `fleetshell auth setup` shows its QR code again."
    )
    print(f"\n{_next_steps(home, line)}")
    return 0


def _told(home: Home) -> str:
    """Let a running relay take over what was made; its refusal must not hide the new secret."""
    try:
        return tell_relay(home)
    except FleetShellError as error:
        output.warn(error.message)
        return ""


def _folders(home: Home, report: _Report) -> None:
    if os.path.lexists(home.path):
        if not home.path.is_dir():
            raise ConfigError(
                f"{home.path} is no folder, so it can't be FleetShell's home. Move it away, or name another home with --home."
            )
        home.check()
    for name in FOLDERS:
        report.add("created" if storage.make_folder(home.path / name) else "kept", f"{name}/")


def _make(home: Home, args: argparse.Namespace, report: _Report) -> tuple[str, str]:
    """Make every file that is missing; returns the public key's line, and the TOTP secret if it is a new one.

    `config.yaml` comes last: as long as something else fails, the next run shows the secret that it then creates.
    """
    from fleetshell_tools.offline import new_totp_secret, record

    exists = os.path.lexists(home.config_file)
    fresh = args.force or not exists
    config = Config() if fresh else home.config()
    line = _relay_key(home, config, report)
    _certificate(home, config, args, report)
    _audit_key(home, config, report)
    _small_file(home.known_hosts, "", report)
    _small_file(home.path / ".installed_mcps.json", "{}\n", report)
    added = {} if fresh else _new_keys(home)
    missing = [] if fresh else [*_missing_secrets(config), *added]
    secret = new_totp_secret() if fresh or "mfa.totp_secret" in missing else ""
    if fresh or missing or report.having("created", "renewed") or not home.audit_key.exists():
        new = ["config.yaml"] if fresh else list(missing)
        record(
            home,
            config,
            "initialized",
            "init",
            created=[*report.having("created"), *new],
            renewed=report.having("renewed"),
        )
    if fresh:
        aside = f"the old one is {_set_aside(home.config_file).name}" if exists else ""
        storage.write_atomic(home.config_file, config_text(home, secret))
        report.add(
            "renewed" if exists else "created",
            home.config_file,
            "; ".join(filter(None, ["a new API key and TOTP secret", aside])),
        )
    elif missing:
        made = {"mfa.totp_secret": lambda: secret, "relay.http.auth.api_key": new_api_key}
        for key in missing:
            configuration.set_value(home.config_file, key, made[key]() if key in made else added[key])
        report.add("completed", home.config_file, f"added {', '.join(missing)}")
    else:
        report.add("kept", home.config_file)
    return line, secret


def _missing_secrets(config: Config) -> list[str]:
    values = {"relay.http.auth.api_key": config.relay.http.auth.api_key, "mfa.totp_secret": config.mfa.totp_secret}
    return [key for key, value in values.items() if not value]


def _new_keys(home: Home) -> dict[str, object]:
    """What a new `config.yaml` has and this home's has not: it was made by an older version, or lines were removed."""
    new = _leaves(yamlfile.parse(config_text(home, ""), "config.yaml").data)
    there = _leaves(yamlfile.read(home.config_file).data or {})
    secret = ("relay.http.auth.api_key", "mfa.totp_secret")
    return {key: value for key, value in new.items() if key not in there and key not in secret}


def _leaves(data: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """The values of nested mappings by their dotted keys; a mapping that is missing as a whole is None."""
    found: dict[str, object] = {}
    for key, value in data.items():
        found.update(_leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return found


def new_api_key() -> str:
    """An API key of 256 bits."""
    return f"fsk_{secrets.token_urlsafe(32)}"


def config_text(home: Home, totp_secret: str) -> str:
    """A complete `config.yaml` for a home, with a new API key."""
    paths = {key: _plain(home.display(name)) for key, name in _FILES.items()}
    return CONFIG.format(
        **paths,
        api_key=yamlfile.scalar(new_api_key()),
        totp_secret=yamlfile.scalar(totp_secret),
        dangerous_commands=yamlfile.scalar(list(DANGEROUS_DEFAULTS)),
    )


def _plain(path: str) -> str:
    return path if re.fullmatch(r"~?/[A-Za-z0-9_./@+-]*", path) else yamlfile.scalar(path)


def _relay_key(home: Home, config: Config, report: _Report) -> str:
    """Make the pair, or the public half alone; returns the line for `authorized_keys`."""
    from fleetshell_tools.offline import create_relay_key, public_line

    private, public = home.file(config.relay.private_key), home.file(config.relay.public_key)
    before = public.read_text(errors="replace").split()[:2] if public.exists() else []
    if os.path.lexists(private):
        report.add("kept", private)
    else:
        _require_ours(home, private, "relay.private_key")
        storage.make_folder(private.parent)
        create_relay_key(private)
        report.add("created", private)
    line = public_line(home, config)
    words = line.split()[:2]
    if before == words:
        report.add("kept", public)
    elif public.is_relative_to(home.path):
        storage.make_folder(public.parent)
        storage.write_atomic(public, f"{line}\n")
        report.add(
            "renewed" if before else "created",
            public,
            f"the old one did not belong to {private.name}" if before else "",
        )
    return line


def _certificate(home: Home, config: Config, args: argparse.Namespace, report: _Report) -> None:
    """Make the certificate and its key, unless both are there and nobody asked for new ones."""
    from fleetshell_tools.offline import create_certificate, is_self_signed, read_certificate

    cert, key = home.file(config.relay.http.cert_file), home.file(config.relay.http.key_file)
    there = [path for path in (cert, key) if os.path.lexists(path)]
    if len(there) == 2 and not (args.force or args.renew_cert):
        _look_at(cert, key, args.hostname)
        for path in there:
            report.add("kept", path)
        return
    _require_ours(home, cert, "relay.http.cert_file")
    _require_ours(home, key, "relay.http.key_file")
    names: tuple[str, ...] = ()
    ours = False
    if cert in there:
        try:
            old = read_certificate(cert)
            names, ours = (*old.names, *old.addresses), is_self_signed(cert) and len(there) == 2
        except ConfigError as error:
            output.warn(f"the old certificate was not used: {error.message}")
    # Whoever had a CA sign something, or still waits for that, will want it back.
    aside = [] if ours else [_set_aside(path).name for path in there]
    for folder in (cert.parent, key.parent):
        storage.make_folder(folder)
    create_certificate(cert, key, list(dict.fromkeys([*args.hostname, *([] if args.force else names)])))
    remark = "clients need a copy of the new one" if there else ""
    if len(there) == 1:
        remark = f"{there[0].name} was there without the other; {remark}"
    for path in (cert, key):
        report.add(
            "renewed" if there else "created",
            path,
            "; ".join(filter(None, [remark, *(f"kept aside: {name}" for name in aside)])) if path == cert else "",
        )


def _look_at(cert: Path, key: Path, hostnames: list[str]) -> None:
    """Warn of what is wrong with a certificate that is kept."""
    from fleetshell_tools.offline import read_certificate

    try:
        certificate = read_certificate(cert, key)
    except FleetShellError as error:
        output.warn(f"{error.message} `fleetshell init --renew-cert` makes a new pair.")
        return
    lacking = [host for host in hostnames if not covers(certificate.names, certificate.addresses, host)]
    if lacking:
        options = " ".join(f"--hostname {host}" for host in lacking)
        output.warn(
            f"the certificate does not name {', '.join(lacking)}. `fleetshell init --renew-cert {options}` makes one that does."
        )
    if certificate.ends < datetime.now(timezone.utc) + _SOON:
        output.warn(
            f"the certificate ends on {certificate.ends:%Y-%m-%d}. `fleetshell init --renew-cert` makes a new one."
        )


def _require_ours(home: Home, path: Path, key: str) -> None:
    """Refuse to make a file outside the home: there, it is somebody else's to make."""
    if not path.is_relative_to(home.path):
        raise ConfigError(
            f"`{key}` in config.yaml names {path}, outside the home, so `init` makes none there. Put it there yourself, or remove that line."
        )


def _audit_key(home: Home, config: Config, report: _Report) -> None:
    """Make the key of the audit log, but never a second one for a log that has records: opening that says what to do."""
    log = home.file(config.relay.audit_log)
    if os.path.lexists(home.audit_key):
        report.add("kept", home.audit_key)
    elif not log.exists() or not log.stat().st_size:
        create_key(home.audit_key)
        report.add("created", home.audit_key)


def _small_file(path: Path, content: str, report: _Report) -> None:
    if os.path.lexists(path):
        report.add("kept", path)
        return
    storage.write_atomic(path, content)
    report.add("created", path)


def _set_aside(path: Path) -> Path:
    """Keep a copy of a file that is about to be replaced; returns the copy."""
    stem = f"{path.name}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    names = (f"{stem}{f'-{number}' if number else ''}.bak" for number in range(1000))
    copy = next(candidate for name in names if not os.path.lexists(candidate := path.with_name(name)))
    storage.write_atomic(copy, path.read_bytes())
    return copy


def _next_steps(home: Home, line: str) -> str:
    elsewhere = (
        "" if Home.find(None).path == home.path else f" Give each command `--home {home.path}`, or set FLEETSHELL_HOME."
    )
    return (
        f"Next steps.{elsewhere}\n"
        "  1. On every server, add this line to ~/.ssh/authorized_keys of the login user (`fleetshell pubkey` prints it again):\n"
        f"     {line}\n"
        "  2. Register the servers:      fleetshell add-server\n"
        "  3. Test the connection:       fleetshell test SERVER-ID\n"
        "  4. Start the relay:           fleetshell serve\n"
        "  5. Configure your client:     fleetshell connect-info"
    )


COMMANDS = (init,)
