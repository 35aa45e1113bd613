"""`auth`: two-factor authentication as the operator manages it: the QR code, a trial of a code, on, off, and lock-outs."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import time
from collections.abc import Iterator

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core import config as configuration
from fleetshell_tools.core import control
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import AuthenticationFailed, ConfigError, FleetShellError
from fleetshell_tools.core.home import Home

_FRAME = "═" * 67


@command("auth setup", JSON, example="fleetshell auth setup")
def setup(args: argparse.Namespace, home: Home) -> int:
    """Show the QR code of the TOTP secret again; creates a secret where there is none, and never replaces one."""
    config = home.config()
    from fleetshell_tools.offline import new_totp_secret, record

    secret, said = config.mfa.totp_secret, ""
    if not secret:
        secret = new_totp_secret()
        with writing(home):
            record(home, config, "totp_secret_created", "auth setup")
            configuration.set_value(home.config_file, "mfa.totp_secret", secret)
        said = f"A new TOTP secret was created. {tell_relay(home)}".rstrip()
    if args.json:
        output.print_json(totp_facts(secret))
        return 0
    if said:
        print(f"{said}\n")
    print(totp_block(secret))
    if not config.mfa.enabled:
        print("\nMFA is disabled: no code is asked for. `fleetshell auth enable` turns it on.")
    return 0


@command("auth status", JSON, example="fleetshell auth status")
def status(args: argparse.Namespace, home: Home) -> int:
    """Is MFA enabled and configured, how long does an authentication last, and is a key locked out."""
    config = home.config()
    mfa = config.mfa
    locked_until, problem = _lock_out(home, config)
    if args.json:
        output.print_json(
            {"enabled": mfa.enabled, "configured": bool(mfa.totp_secret), "session_lifetime": mfa.session_lifetime,
             "grant_scope": mfa.grant_scope, "locked_out_until": locked_until, "problem": problem or None}
        )  # fmt: skip
        return 0
    print(
        f"MFA: {'enabled' if mfa.enabled else output.paint('DISABLED', 'red') + ' (`fleetshell auth enable` turns it on)'}"
    )
    print(f"TOTP secret: {'configured' if mfa.totp_secret else 'none (`fleetshell auth setup` creates one)'}")
    print(
        f"An authentication lasts {mfa.session_lifetime} seconds, for {'the session' if mfa.grant_scope == 'session' else 'every client of the key'}."
    )
    if problem:
        print(f"Lock-out: unknown. {problem}")
    elif locked_until:
        print(
            f"Lock-out: {output.paint('locked', 'red')} until {locked_until} after too many wrong codes; `fleetshell auth unlock` lifts it."
        )
    else:
        print("Lock-out: none")
    return 0


def _lock_out(home: Home, config: Config) -> tuple[str | None, str]:
    """Until when the API key is locked out (UTC), and what is wrong with the file that knows it."""
    from fleetshell_tools.offline import auth_state, key_id

    try:
        state = auth_state(home).read().get(key_id(config))
    except (AuthenticationFailed, ConfigError) as error:
        return None, error.message
    return (_utc(state.locked_until) if state and state.locked_until > time.time() else None), ""


@command(
    "auth test",
    Arg("code", metavar="CODE", help="the six digits that the authenticator app shows"),
    example="fleetshell auth test 123456",
)
def test(args: argparse.Namespace, home: Home) -> int:
    """Does a code match now? It is not used up: the relay still accepts it. Exit code 1 where it does not match."""
    config = home.config()
    if not config.mfa.totp_secret:
        raise ConfigError("There is no TOTP secret to test a code against. Run `fleetshell auth setup` to create one.")
    code = args.code.replace(" ", "")
    if not (len(code) == 6 and code.isascii() and code.isdigit()):
        raise FleetShellError("A code has six digits, such as 123456.")
    from fleetshell_tools.offline import check_code

    step = check_code(config.mfa.totp_secret, code)
    if step is None:
        raise FleetShellError(
            f"The code does not match. Codes depend on the time: it is {_utc(time.time())} here; compare that with the phone's clock "
            "(`sudo timedatectl set-ntp true` sets this machine's). If both are right, the app holds another secret: `fleetshell auth setup` shows ours."
        )
    print(f"{output.paint('✓', 'green')} The code matches{_STEPS[step]}. It was not used up.")
    return 0


_STEPS = {
    -1: ": it is that of the previous step. It has just changed, or the app's clock is slow (or ours fast) by up to 30 s",
    0: " the current step",
    1: ": it is that of the next step. The app's clock is fast (or ours slow) by up to 30 s",
}


@command("auth enable", example="fleetshell auth enable")
def enable(args: argparse.Namespace, home: Home) -> int:
    """Ask for a TOTP code again before any tool but `authenticate` works."""
    config = home.config()
    if not config.mfa.totp_secret:
        raise ConfigError(
            "MFA can't be enabled without a TOTP secret. Run `fleetshell auth setup` first; it creates one."
        )
    return _switch(home, config, on=True)


@command("auth disable", example="fleetshell auth disable")
def disable(args: argparse.Namespace, home: Home) -> int:
    """Ask for no codes: whoever has the API key can then run commands. Not for production."""
    code = _switch(home, home.config(), on=False)
    output.warn(
        "without MFA the API key alone is enough to run commands on every server. `fleetshell auth enable` turns it on again."
    )
    return code


def _switch(home: Home, config: Config, on: bool) -> int:
    word, name = ("enabled", "auth enable") if on else ("disabled", "auth disable")
    if config.mfa.enabled == on:
        print(f"MFA is {word} already.")
    else:
        from fleetshell_tools.offline import record

        with writing(home):
            record(home, config, f"auth_{word}", name)
            configuration.set_value(home.config_file, "mfa.enabled", on)
        print(f"MFA is now {word} in {home.config_file}.")
    # Even without a change: an earlier command may have failed just here.
    print(tell_relay(home) or "No relay is running; it holds when one starts.")
    return 0


@command("auth unlock", example="fleetshell auth unlock")
def unlock(args: argparse.Namespace, home: Home) -> int:
    """Lift the lock-out that follows too many wrong codes."""
    config = home.config()
    from fleetshell_tools.offline import auth_state, record

    with writing(home):
        record(home, config, "auth_unlocked", "auth unlock")
        auth_state(home).clear()
    print("No key is locked out now.")
    return 0


def tell_relay(home: Home) -> str:
    """Make a running relay read its configuration; returns the sentence that says so, empty where none is running.

    Raises:
        FleetShellError: One is running, but refuses.
    """
    try:
        answer = control.ask(home.control_socket, {"do": "reload"})
    except FleetShellError as error:
        raise FleetShellError(
            f"The change is saved, but the running relay has not taken it over: {error.message}"
        ) from None
    return "The running relay has taken it over." if answer else ""


@contextlib.contextmanager
def writing(home: Home) -> Iterator[None]:
    """Turn what the system says about a file into a sentence.

    Raises:
        ConfigError: A file or folder could not be made or changed.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or home.path
        raise ConfigError(
            f"{where} can't be written: {error.strerror or error}. Free or open that place, or name another home with --home."
        ) from None


def totp_facts(secret: str, account: str = "") -> dict[str, str]:
    """What an authenticator app needs, for `--json`; `account` is the name that it shows, where it is not the relay's own."""
    from fleetshell_tools.offline import TOTP_ACCOUNT, provisioning_uri

    plain = secret.replace(" ", "").rstrip("=").upper()
    account = account or TOTP_ACCOUNT
    return {"secret": plain, "uri": provisioning_uri(plain, account), "account": account}


def totp_block(secret: str, account: str = "") -> str:
    """The QR code and all that belongs to it, as `init` and `auth setup` show it."""
    facts = totp_facts(secret, account)
    drawing = _draw(facts["uri"])
    if drawing:
        way = f"Scan this with your authenticator app (Google Authenticator, Authy, 1Password, …):\n\n{drawing}"
    else:
        way = f"The QR code does not fit here (a wider terminal may show it). Type the key below into your app, or give it this URI:\n\n{facts['uri']}"
    return (
        f"{_FRAME}\n🔐 TOTP 2FA AUTHENTICATION SETUP\n{_FRAME}\n\n{way}\n\n"
        f"Manual entry key: {facts['secret']}\nAccount name: {facts['account']}\n\n"
        "IMPORTANT: keep a copy of this key in a password manager. It gets you back in when\n"
        f"the phone is lost; whoever else sees it can make your codes.\n\n{_FRAME}"
    )


def _draw(uri: str) -> str:
    """The QR code with the most error correction that fits; nothing where none does, or the terminal is too narrow."""
    from fleetshell_tools.cli import qr

    levels: tuple[qr.Level, ...] = ("M", "L")
    for level in levels:
        with contextlib.suppress(ValueError):
            matrix = qr.encode(uri, level)
            columns = len(matrix) + 8  # with the quiet zone
            narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < columns
            return "" if narrow else qr.render(matrix, ansi=output.coloured())
    return ""


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


COMMANDS = (setup, status, test, enable, disable, unlock)
