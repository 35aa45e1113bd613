"""Showing a TOTP secret: the QR code drawn in the terminal, and the key for entry by hand."""

from __future__ import annotations

import shutil
import sys

from fleetshell_tools.cli import output, qr

RULE = "═" * 67


def show_secret(secret: str) -> None:
    """Print the block that a person sets up an authenticator app with."""
    from fleetshell_tools.app import TOTP_ACCOUNT, provisioning_uri

    print(f"\n{RULE}\n🔐 TOTP 2FA AUTHENTICATION SETUP\n{RULE}\n")
    drawing = _drawing(provisioning_uri(secret))
    if drawing:
        print("Scan this QR code with your authenticator app")
        print("(Google Authenticator, Authy, 1Password, …):\n")
        print(drawing)
    else:
        print("This terminal is too narrow for the QR code; widen it and run `fleetshell auth setup`, or enter the key by hand.")
    print(f"\nManual entry key: {secret}")
    print(f"Account name: {TOTP_ACCOUNT}\n")
    print("IMPORTANT: store this secret in a safe place, such as a password manager.")
    print("Without it, a lost phone means a new secret on the relay (`fleetshell auth setup` shows this one again).")
    print(f"\n{RULE}")


def _drawing(uri: str) -> str:
    """The QR code, or "" where the terminal is too narrow for it."""
    try:
        matrix = qr.encode(uri, "M")
    except ValueError:
        matrix = qr.encode(uri, "L")
    drawing = qr.render(matrix, ansi=output.coloured())
    columns = len(matrix) + 8
    return "" if sys.stdout.isatty() and shutil.get_terminal_size().columns < columns else drawing
