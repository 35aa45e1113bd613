"""The people who share a relay: `users/<name>.conf`, one file a person, with what each of them may do."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from fleetshell_tools.core import schema, storage, yamlfile
from fleetshell_tools.core.config import SERVER_ID
from fleetshell_tools.core.errors import ConfigError, FleetShellError, NotFound, Refused
from fleetshell_tools.core.schema import option
from fleetshell_tools.core.servers import SETTLING_NS
from fleetshell_tools.core.types import EVERY_SERVER, Principal
from fleetshell_tools.core.words import nearest

OWNER = "owner"
"""Whose key and secret stand in `config.yaml`; nobody else may have the name."""

POLICIES = ("normal", "read_only")
NAME = re.compile(SERVER_ID)


@dataclass(frozen=True)
class Person:
    """One person as their file describes them. The API key itself is kept nowhere: it is shown once."""

    name: str = option(
        doc="The person's name, the same as the file's.",
        pattern=SERVER_ID,
        means="letters, digits, `.`, `_`, `-`, at most 64",
    )
    key_sha256: str = option(
        doc="SHA-256 of the person's API key.", pattern=r"[0-9a-f]{64}", means="64 hexadecimal digits", secret=True
    )
    totp_secret: str = option(
        doc="The person's own TOTP secret, base32.", pattern=r"[A-Z2-7]{16,128}", means="base32 (A-Z and 2-7)", secret=True
    )  # fmt: skip
    servers: tuple[str, ...] = option(
        (), "Ids of the servers that the person may use; `*` means every server.", pattern=rf"\*|{SERVER_ID}", means="ids, or `*`"
    )  # fmt: skip
    tags: tuple[str, ...] = option((), "Servers that have one of these tags may be used too.")
    policy: str = option("normal", "What the person may do there, besides each server's own policy.", choices=POLICIES)
    created_at: str = option("", "When the person was added, in UTC.")

    @property
    def key_id(self) -> str:
        """The digest that names the person's key in logs."""
        return key_id_of(self.key_sha256)

    def principal(self) -> Principal:
        """The person as the holder of a request's key."""
        return Principal(self.key_id, self.name, self.servers, self.tags, self.policy)


def key_id_of(key_sha256: str) -> str:
    """A short digest that names a key of which only the SHA-256 is known, in hexadecimal digits."""
    return hashlib.sha256(b"fleetshell key digest " + key_sha256.encode()).hexdigest()[:12]


def digest(api_key: str) -> str:
    """What is kept of a person's API key."""
    return hashlib.sha256(api_key.encode()).hexdigest()


def parse(text: str, name: str, expected: str) -> Person:
    """Check the text of a person's file.

    Raises:
        ConfigError: With file name and line.
    """
    document = yamlfile.parse(text, name)
    person = schema.build(Person, document.data, document)
    if person.name != expected:
        raise document.error(
            ("name",), f'name is "{person.name}", but the file is named {expected}.conf; make both the same.'
        )
    if person.name == OWNER:
        raise document.error(("name",), f'"{OWNER}" is whose key stands in config.yaml; choose another name.')
    try:
        base64.b32decode(person.totp_secret + "=" * (-len(person.totp_secret) % 8))
    except ValueError:
        raise document.error(
            ("totp_secret",),
            f"totp_secret is not base32 of a whole length; run `fleetshell auth remove {person.name}` and add them again.",
        ) from None
    return person


class People:
    """Everybody in `users/`, read again when a file has changed. A bad file shuts out that person alone.

    Args:
        folder: The `users` folder; it need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamp: object = None
        self._people: dict[str, Person] = {}
        self._problems: dict[str, str] = {}

    def look(self) -> bool:
        """Read the files again where one has changed; returns whether anybody is another one now, or a problem is.

        Where the folder itself can't be read or trusted, everybody in it is shut out.
        """
        before = (self._people, self._problems)
        try:
            files = self._files()
        except (OSError, ConfigError) as error:
            said = error.message if isinstance(error, ConfigError) else f"can't be read: {error.strerror}"
            self._stamp, self._people, self._problems = None, {}, {"*": said}
            return before != (self._people, self._problems)
        stamp = tuple((name, info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino) for name, info in files)
        if stamp == self._stamp:
            return False
        people, problems = {}, {}
        for name, _ in files:
            try:
                people[name] = self._read(name)
            except FileNotFoundError:
                continue
            except OSError as error:
                problems[name] = f"{self.path(name)} can't be read: {error.strerror}."
            except FleetShellError as error:
                problems[name] = error.message
        newest = max((info.st_ctime_ns for _, info in files), default=0)
        # The clock of a file system is coarse: what has just changed may change again without a trace.
        self._stamp = stamp if time.time_ns() - newest > SETTLING_NS else None
        self._people, self._problems = people, problems
        return before != (people, problems)

    def all(self) -> list[Person]:
        """Everybody whose file is good, as of the last look."""
        return list(self._people.values())

    def problems(self) -> dict[str, str]:
        """Why somebody is shut out, for each whose file is bad, as of the last look; `*` stands for everybody."""
        return dict(self._problems)

    def path(self, name: str) -> Path:
        return self._folder / f"{name}.conf"

    def add(self, person: Person) -> None:
        """Write a new person's file; checked before, atomic.

        Raises:
            ConfigError: There is such a person, or a value is impossible.
        """
        path = self.path(person.name)
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(person).items()}
        text = yamlfile.dump(values)
        parse(text, str(path), person.name)
        storage.make_folder(self._folder)
        storage.check_private(self._folder, folder=True)
        with storage.locked(self._folder / ".lock"):
            if os.path.lexists(path):
                raise ConfigError(
                    f"There is a person {person.name} already. `fleetshell auth remove {person.name}` removes them, "
                    "for a new key and a new code."
                )
            storage.write_atomic(path, text)

    def check_known(self, name: str) -> None:
        """Refuse a name that has no file, good or bad.

        Raises:
            NotFound: Names near ones.
        """
        known = [file for file, _ in self._files()]
        if name not in known:
            others = ", ".join(known[:10]) or "none"
            raise NotFound(f'There is no person "{name[:80]}".{nearest(name, known)} Known: {others}.')

    def remove(self, name: str) -> None:
        """Remove a person's file, good or bad.

        Raises:
            NotFound: There is none.
        """
        self.check_known(name)
        self.path(name).unlink()
        storage.sync_folder(self._folder)

    def _files(self) -> list[tuple[str, os.stat_result]]:
        if not os.path.lexists(self._folder):
            return []
        storage.check_private(self._folder, folder=True)
        found = []
        for item in sorted(os.scandir(self._folder), key=lambda item: item.name):
            if item.name.endswith(".conf") and not item.name.startswith("."):
                try:
                    found.append((item.name.removesuffix(".conf"), item.stat(follow_symlinks=False)))
                except FileNotFoundError:  # removed since the folder was listed
                    continue
        return found

    def _read(self, name: str) -> Person:
        path = self.path(name)
        storage.check_secret(path)
        if not NAME.fullmatch(name):
            raise ConfigError(f"{path}: the file's name is no valid name (letters, digits, `.`, `_`, `-`).")
        return parse(yamlfile.read_text(path), str(path), name)


VETTED = frozenset(
    "authenticate execute_command multi_server_execute run_troubleshooting create_shell_session execute_in_session "
    "close_shell_session cancel_job".split()
)
"""Tools that a reader may use although they are no reading ones: the guard holds each command against the policy."""

FOR_ALL_SERVERS = frozenset({"install_mcp"})
"""Tools that change the relay for everybody."""


def check_tool(principal: Principal, name: str, *, reads: bool) -> None:
    """Refuse a tool that somebody's policy does not allow, whatever it would be used on.

    Args:
        reads: Whether the tool only reads.

    Raises:
        Refused: The sentence names the policy.
    """
    if principal.policy != "normal" and not reads and name not in VETTED:
        raise Refused(
            f"{name} changes something, and the policy of {principal.name} is {principal.policy}. The operator can change it."
        )
    if name in FOR_ALL_SERVERS and EVERY_SERVER not in principal.servers:
        raise Refused(
            f"{name} is for people who may use every server; {principal.name} may use some. Ask the operator."
        )
