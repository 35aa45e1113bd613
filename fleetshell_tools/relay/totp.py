"""One-time codes from time (TOTP, RFC 6238): secrets, the codes that match now, and what an authenticator app scans."""

from __future__ import annotations

import hmac
import time

import pyotp

from fleetshell_tools.core.errors import ConfigError

STEP = 30
"""Seconds that a code is shown (RFC 6238 X)."""

WINDOW = 1
"""Steps before and after now that are accepted (RFC 6238 5.2)."""

ISSUER = "FleetShell"
ACCOUNT = "fleetshell-relay"


def new_secret() -> str:
    """A TOTP secret of 160 bits, base32 (RFC 4226 4, R6)."""
    return pyotp.random_base32(32)


def matching_step(secret: str, code: str, now: float) -> int | None:
    """The time step that a code belongs to, within the window around `now` (Unix seconds), or None."""
    totp = pyotp.TOTP(secret.replace(" ", ""))
    current = int(now) // STEP
    found = None
    for step in range(current - WINDOW, current + WINDOW + 1):
        if hmac.compare_digest(totp.generate_otp(step), code):
            found = step
    return found


def provisioning_uri(secret: str, account: str = ACCOUNT) -> str:
    """The otpauth URI that authenticator apps scan; they show the secret under the name `account`.

    Raises:
        ConfigError: The secret is not base32.
    """
    try:
        return pyotp.TOTP(secret).provisioning_uri(name=account, issuer_name=ISSUER)
    except ValueError:
        raise _bad_secret() from None


def check_code(secret: str, code: str) -> int | None:
    """Which time step a code belongs to, as steps from now (-1, 0 or 1), or None; the code is not used up.

    Raises:
        ConfigError: The secret is not base32.
    """
    now = time.time()
    try:
        step = matching_step(secret, code, now)
    except ValueError:
        raise _bad_secret() from None
    return None if step is None else step - int(now) // STEP


def _bad_secret() -> ConfigError:
    return ConfigError(
        "mfa.totp_secret in config.yaml is not base32 of a whole length. Remove the line and run `fleetshell auth setup`."
    )
