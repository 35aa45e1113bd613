"""The home folder (`~/.fleetshell`): where each file lies, and whether it may be trusted."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from fleetshell_tools.core import config as configuration
from fleetshell_tools.core import storage
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import ConfigError

FOLDERS = ("certs", "servers", "mcps", "prompts", "logs", "notes", "run")
"""The folders that `init` creates, all 0700; `users` comes with the first person that is added."""


@dataclass(frozen=True)
class Home:
    """Paths inside one home; nothing is read or created by making one."""

    path: Path

    @classmethod
    def find(cls, option: str | None) -> Home:
        """The home named by `--home`, else by `$FLEETSHELL_HOME`, else `~/.fleetshell`."""
        name = option or os.environ.get("FLEETSHELL_HOME") or "~/.fleetshell"
        return cls(Path(os.path.abspath(os.path.expanduser(name))))

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def known_hosts(self) -> Path:
        return self.path / "known_hosts"

    @property
    def servers(self) -> Path:
        return self.path / "servers"

    @property
    def users(self) -> Path:
        return self.path / "users"

    @property
    def prompts(self) -> Path:
        return self.path / "prompts"

    @property
    def notes(self) -> Path:
        return self.path / "notes"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def audit_key(self) -> Path:
        return self.path / "audit.key"

    @property
    def audit_signing_key(self) -> Path:
        """The private half of the pair that signs the audit log's checkpoints; `.pub` beside it."""
        return self.path / "audit-signing.key"

    @property
    def audit_head(self) -> Path:
        return self.run / "audit.head"

    @property
    def audit_reserve(self) -> Path:
        return self.run / "audit.reserve"

    @property
    def auth_state(self) -> Path:
        return self.run / "auth.json"

    @property
    def emergency(self) -> Path:
        return self.run / "locked.json"

    @property
    def control_socket(self) -> Path:
        return self.run / "control.sock"

    @property
    def relay_lock(self) -> Path:
        return self.run / "relay.lock"

    def display(self, name: str) -> str:
        """How a file of this home is written in `config.yaml`: with `~` where this is the default home."""
        default = Path(os.path.expanduser("~/.fleetshell"))
        return f"~/.fleetshell/{name}" if self.path == default else str(self.path / name)

    def check(self) -> None:
        """Refuse a home that is missing, foreign, or open to others.

        Raises:
            ConfigError: With the command that mends it.
        """
        try:
            info = os.stat(self.path)
        except OSError as error:
            info = None
            if isinstance(error, PermissionError):
                raise ConfigError(
                    f"{self.path} can't be looked into by {_user(os.geteuid())}; run `sudo -u OWNER fleetshell …` as the home's owner."
                ) from None
        if info is None or not stat.S_ISDIR(info.st_mode):
            raise ConfigError(
                f"There is no FleetShell home at {self.path}. Run `fleetshell init` to create it"
                f"{'' if 'FLEETSHELL_HOME' in os.environ else ', or name another with --home'}."
            )
        owner, me = info.st_uid, os.geteuid()
        if owner != me:
            raise ConfigError(
                f"{self.path} belongs to {_user(owner)}; run `sudo -u {_user(owner)} fleetshell …` instead."
            )
        if info.st_mode & 0o022:
            raise ConfigError(
                f"{self.path} can be changed by other users (mode {info.st_mode & 0o7777:04o}). Run `chmod 700 {self.path}`."
            )
        for folder in (*FOLDERS, self.users.name):
            if os.path.lexists(self.path / folder):
                storage.check_private(self.path / folder, folder=True)

    def sweep(self) -> int:
        """Remove what writers that were killed have left half-written; returns how many files that were."""
        ours = [self.path, *(self.path / name for name in FOLDERS if name != "mcps"), self.run / "facts"]
        return sum(map(storage.sweep, ours))

    def check_files(self, config: Config) -> None:
        """Refuse to start on a file that somebody else has planted, can change, or could read a secret from.

        Files elsewhere that the configuration names are the operator's business, and those of servers, people, prompts and
        notes are looked at one by one when they are read.

        Raises:
            ConfigError: With the command that mends it.
        """
        http = config.relay.http
        named = [config.relay.private_key, config.relay.public_key, config.relay.log_file, config.relay.audit_log, http.cert_file, http.key_file]  # fmt: skip
        secret = {self.file(config.relay.private_key), self.file(http.key_file), self.audit_key, self.audit_signing_key}
        files = {self.known_hosts, self.audit_key, self.audit_signing_key, *map(self.file, named)}
        for folder in (self.run, self.logs, self.path / "certs"):
            if folder.is_dir():
                files.update(path for path in folder.iterdir() if path.is_symlink() or path.is_file())
        for path in sorted(path for path in files if self.path in path.parents and os.path.lexists(path)):
            (storage.check_secret if path in secret else _check_file)(path)

    def config(self) -> Config:
        """The checked configuration.

        Raises:
            ConfigError: The home or the file is missing or invalid.
        """
        self.check()
        return configuration.load(self.config_file)

    def file(self, value: str) -> Path:
        """A path that the configuration names."""
        return configuration.expand(value, self.path)


def _check_file(path: Path) -> None:
    storage.check_private(path, folder=False)


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
