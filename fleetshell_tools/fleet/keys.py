"""SSH key pairs, made and read by `ssh-keygen`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from fleetshell_tools.core import storage
from fleetshell_tools.core.errors import ConfigError, FleetShellError

COMMENT = "fleetshell-relay"


def require(program: str) -> str:
    """The path of an OpenSSH program.

    Raises:
        FleetShellError: It is not installed; says what to install.
    """
    found = shutil.which(program)
    if found is None:
        raise FleetShellError(
            f"{program} is not installed. Install the OpenSSH client (Debian, Ubuntu: `apt install openssh-client`)."
        )
    return found


def create(private: Path) -> None:
    """Make an ed25519 pair without passphrase at `private` and beside it, the private half 0600.

    The pair is made under a temporary name, so that a crash leaves no half of one.

    Raises:
        FleetShellError: ssh-keygen is missing or failed.
    """
    temporary = private.with_name(f".{private.name}.new")
    public = private.with_suffix(".pub")
    for left in (temporary, Path(f"{temporary}.pub")):
        left.unlink(missing_ok=True)
    run = subprocess.run(
        [require("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", COMMENT, "-f", str(temporary)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if run.returncode != 0:
        raise FleetShellError(f"ssh-keygen could not make {private}: {run.stderr.strip() or run.stdout.strip()}")
    os.chmod(f"{temporary}.pub", storage.PRIVATE_FILE)
    os.replace(f"{temporary}.pub", public)
    os.replace(temporary, private)
    storage.sync_folder(private.parent)


def public_line(private: Path) -> str:
    """The one line for `authorized_keys`, derived from the private key.

    Raises:
        ConfigError: The key is missing, readable by others or damaged.
    """
    if not private.exists():
        raise ConfigError(f"The relay's key {private} does not exist. Run `fleetshell init` to make one.")
    storage.check_secret(private)
    run = subprocess.run(
        [require("ssh-keygen"), "-y", "-P", "", "-f", str(private)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if run.returncode != 0:
        raise ConfigError(f"{private} can't be used as a key: {run.stderr.strip()}.")
    words = run.stdout.split()
    return " ".join([*words[:2], COMMENT])
