"""`auth revoke`, `auth rotate-key` and `auth reset`: ending access, a new API key, a new TOTP secret."""

from __future__ import annotations

import argparse
import sys
import time

from fleetshell_tools.cli import output
from fleetshell_tools.cli.approvals import ask_relay
from fleetshell_tools.cli.auth import tell_relay, totp_block, totp_facts, writing
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.cli.connect import desktop_settings
from fleetshell_tools.cli.emergency import ended_text
from fleetshell_tools.cli.setup import new_api_key
from fleetshell_tools.core import config as configuration
from fleetshell_tools.core.errors import ConfigError, UsageError
from fleetshell_tools.core.home import Home

LONGEST_KEEP = 24 * 90


@command(
    "auth revoke",
    Arg("--all", action="store_true", help="end running calls, jobs, shell sessions and approvals too"),
    JSON,
    example="fleetshell auth revoke --all",
)
def revoke(args: argparse.Namespace, home: Home) -> int:
    """End every authentication now: each client needs a new TOTP code. Exit code 1 where no relay is running."""
    ended = ask_relay(home, {"do": "revoke", "all": args.all}, "so nobody is authenticated")
    if ended is None:
        return 1
    if args.json:
        output.print_json(ended)
    else:
        print(ended_text(ended))
    return 0


def _hours(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= LONGEST_KEEP):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours from 0 to {LONGEST_KEEP}")
    return int(text)


@command(
    "auth rotate-key",
    Arg("--keep", type=_hours, default=24, metavar="HOURS", help="how long the old key stays valid (default 24; 0 after a leak)"),
    JSON,
    example="fleetshell auth rotate-key --keep 48",
)  # fmt: skip
def rotate_key(args: argparse.Namespace, home: Home) -> int:
    """Make a new API key; the old one stays valid for a while, so that clients can be changed one after the other."""
    config = home.config()
    from fleetshell_tools.offline import auth_state, digest_of_key, record

    old, new = config.relay.http.auth.api_key, new_api_key()
    keep = args.keep if old else 0
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + keep * 3600)) if keep else ""
    place = "relay.http.auth"
    with writing(home):
        record(
            home,
            config,
            "api_key_rotated",
            "auth rotate-key",
            old=digest_of_key(old),
            new=digest_of_key(new),
            old_until=until or None,
        )
        # Before the key is valid: it must not begin without the used codes and the lock-out of the old one.
        auth_state(home).inherit(digest_of_key(new), digest_of_key(old))
        configuration.set_values(
            home.config_file,
            {
                f"{place}.previous_api_key": old if keep else "",
                f"{place}.previous_until": until,
                f"{place}.api_key": new,
            },
        )
    told = tell_relay(home) or "No relay is running; it holds when one starts."
    try:
        settings = desktop_settings(home)
    except ConfigError as error:  # the key has been changed all the same, and must be shown
        output.warn(error.message)
        settings = {"api_key": new}
    if args.json:
        output.print_json({"old_key_until": until or None, **settings})
        return 0
    print(f"There is a new API key. {told}")
    print(f"The old one stays valid until {until}." if until else "The old one is not valid any more.")
    output.warn("this output holds the API key; treat it like a password.")
    print("\nThe new configuration of Claude Desktop on Linux (`fleetshell connect-info` has it for others):\n")
    output.print_json(settings)
    return 0


@command(
    "auth reset",
    Arg("--yes", action="store_true", help="do not ask whether this is meant"),
    JSON,
    example="fleetshell auth reset",
)
def reset(args: argparse.Namespace, home: Home) -> int:
    """Replace the TOTP secret: codes of the old one do not work any more, and every authentication ends."""
    config = home.config()
    if not args.yes:
        if not output.interactive():
            raise UsageError("`auth reset` replaces the TOTP secret and asks first; without a terminal give --yes.")
        print(
            "The authenticator app will need the new secret; codes of the old one stop working, and every client must authenticate again."
        )
        if not output.confirm("Replace the TOTP secret?"):
            print("Nothing was changed.", file=sys.stderr)
            return 1
    from fleetshell_tools.offline import auth_state, new_totp_secret, record

    secret = new_totp_secret()
    with writing(home):
        record(home, config, "totp_secret_replaced", "auth reset")
        configuration.set_value(home.config_file, "mfa.totp_secret", secret)
        auth_state(home).clear()
    told = tell_relay(home)
    if args.json:
        output.print_json(totp_facts(secret))
        return 0
    print(f"There is a new TOTP secret. {told}\n")
    print(totp_block(secret))
    return 0


COMMANDS = (revoke, rotate_key, reset)
