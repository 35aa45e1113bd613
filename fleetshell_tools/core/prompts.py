"""The prompt database: `prompts/<name>.json`, one file a prompt, with every earlier revision kept beside it.

A revision is a whole file, `prompts/.history/<name>/<number>.json`, written before the prompt itself is replaced. So the text
that somebody changes by hand is never the only copy: a prompt that differs from its own revision counts as the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fleetshell_tools.core import placeholders, storage
from fleetshell_tools.core.errors import ConfigError, FleetShellError, NotFound
from fleetshell_tools.core.prompt_file import (
    LARGEST_FILE,
    NAME,
    NAME_MEANS,
    Prompt,
    check_content,
    check_description,
    check_name,
    parse,
    utc,
)
from fleetshell_tools.core.servers import Inventory
from fleetshell_tools.core.words import nearest

MOST_PROMPTS = 1_000
MOST_REVISIONS = 100
"""Revisions kept of a prompt; the oldest go first."""

SERVER_ARGUMENTS = frozenset({"server", "server_id"})
"""Arguments whose value must be the id of a registered server."""


@dataclass(frozen=True)
class Editor:
    """Who changes a prompt.

    Args:
        author: `model` or `operator`; it stands in the prompt's file.
        record: Writes one record of the audit log, `record(event, **fields)`, before the prompt is changed.
    """

    author: str
    record: Callable[..., object]


def rendered(prompt: Prompt, values: Mapping[str, str], inventory: Inventory) -> str:
    """The prompt's text with its arguments in it; without any, byte for byte.

    Raises:
        BadArgument: A missing or an unknown argument.
        NotFound: `server` or `server_id` is no registered server; names near ones.
    """
    text = placeholders.render(prompt.content, values)
    for name in sorted(SERVER_ARGUMENTS & values.keys()):
        inventory.get(values[name])
    return text


class PromptStore:
    """All prompts of a home. Each call reads the files, so a change by another process shows at once.

    Reading takes no lock, since files are replaced whole; writers take turns, across threads and processes.

    Args:
        folder: The `prompts` folder.
        now: Seconds since the epoch.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now

    def path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def generation(self) -> int:
        """A number that is another one after the prompts have changed, for one process to compare; a `stat` for each file."""
        stamps = []
        for item in self._files():
            with contextlib.suppress(FileNotFoundError):  # deleted since the folder was listed
                info = item.stat(follow_symlinks=False)
                stamps.append((item.name, info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino))
        return hash(tuple(stamps))

    def _files(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._folder) as found:
                return sorted(
                    (item for item in found if item.name.endswith(".json") and not item.name.startswith(".")),
                    key=lambda item: item.name,
                )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{self._folder} can't be read: {error.strerror}.") from None

    def names(self) -> list[str]:
        """The names of all prompts, also of those whose file is damaged."""
        return [item.name.removesuffix(".json") for item in self._files()]

    def all(self) -> tuple[list[Prompt], dict[str, str]]:
        """Every prompt by name, and of those whose file is damaged why."""
        prompts: list[Prompt] = []
        problems: dict[str, str] = {}
        for name in self.names():
            try:
                prompt = self._read(name, self.path(name))
            except ConfigError as error:
                problems[name] = error.message
            else:
                prompts += [prompt] if prompt else []
        return prompts, problems

    def get(self, name: str) -> Prompt:
        """One prompt.

        Raises:
            BadArgument: This can't be a name.
            NotFound: There is none; names a near one.
            ConfigError: Its file is damaged.
        """
        prompt = self._current(check_name(name))
        if prompt is None:
            raise self._unknown(name)
        return prompt

    def revisions(self, name: str) -> list[int]:
        """The numbers of all revisions that are kept, the newest last; a deleted prompt still has its own.

        Raises:
            BadArgument, NotFound: As for `get`.
        """
        numbers = set(self._kept(check_name(name)))
        with contextlib.suppress(ConfigError):  # the earlier revisions of a damaged prompt are what mends it
            prompt = self._current(name)
            numbers |= {prompt.revision} if prompt else set()
        if not numbers and name not in self.names():
            raise self._unknown(name)
        return sorted(numbers)

    def revision(self, name: str, number: int) -> Prompt:
        """One revision of a prompt, also of a deleted one.

        Raises:
            NotFound: There is no such revision.
            ConfigError: The file of this revision is damaged.
        """
        known = self.revisions(name)
        if number in known:
            prompt = self._read(name, self._kept_path(name, number)) or self._current(name)
            if prompt is not None:
                return replace(prompt, revision=number)
        raise NotFound(
            f'The prompt "{name}" has no revision {number}. Its revisions: {", ".join(map(str, known[-20:])) or "none"}.'
        )

    def save(self, name: str, description: str, content: str, *, by: Editor) -> tuple[Prompt, bool]:
        """Create a prompt, or give an existing one this text; the same text again changes nothing.

        Returns:
            The prompt, and whether it was created now.

        Raises:
            BadArgument: The name or a text can't be saved.
            ConfigError: The prompt's file is damaged; it stays.
        """
        check_name(name)
        check_description(description)
        check_content(content)
        with self._writing():
            old = self._current(name)
            if old is None and len(self.names()) >= MOST_PROMPTS:
                raise FleetShellError(
                    f"There are {MOST_PROMPTS:,} prompts already; delete one that is not needed any more."
                )
            return self._replace(name, old, description, content, by, "prompt_saved"), old is None

    def edit(
        self,
        name: str,
        description: str | None = None,
        content: str | None = None,
        *,
        by: Editor,
        expected_revision: int | None = None,
    ) -> Prompt:
        """Change what is given of a prompt.

        Args:
            expected_revision: Refuse where the prompt has another revision by now.

        Raises:
            BadArgument, NotFound, ConfigError: As for `get` and `save`.
            FleetShellError: The prompt was changed by somebody else.
        """
        with self._writing():
            old = self.get(name)
            if expected_revision not in (None, old.revision):
                raise FleetShellError(
                    f'The prompt "{name}" was changed by somebody else: it is at revision {old.revision}, not {expected_revision}. '
                    "Read it again before you change it."
                )
            description = old.description if description is None else check_description(description)
            content = old.content if content is None else check_content(content)
            return self._replace(name, old, description, content, by, "prompt_edited")

    def rollback(self, name: str, number: int | None = None, *, by: Editor) -> Prompt:
        """Make an earlier text the newest revision; this also brings back a deleted or damaged prompt.

        Args:
            number: Which revision; None for the one before the prompt's own, or the last one of a deleted prompt.

        Raises:
            NotFound: There is no such prompt or revision, or none before it.
        """
        with self._writing():
            try:
                old = self._current(check_name(name))
            except ConfigError:
                old = None
            earlier = [known for known in self.revisions(name) if old is None or known < old.revision]
            if number is None and not earlier:
                raise NotFound(f'The prompt "{name}" has no earlier revision.')
            chosen = self.revision(name, earlier[-1] if number is None else number)
            if old is None:
                return self._write(name, chosen, chosen.description, chosen.content, by, "prompt_rolled_back")
            return self._replace(name, old, chosen.description, chosen.content, by, "prompt_rolled_back")

    def delete(self, name: str, *, by: Editor, forget: bool = False) -> None:
        """Delete a prompt; its revisions stay, so that `rollback` can bring it back, but with `forget` they go too.

        Raises:
            BadArgument, NotFound: As for `get`.
        """
        with self._writing():
            if name not in self.names() and not (forget and self._kept(check_name(name))):
                raise self._unknown(check_name(name))
            by.record("prompt_deleted", prompt=name, forgotten=forget)
            if forget:
                shutil.rmtree(self._history(name), ignore_errors=True)
                self.path(name).unlink(missing_ok=True)
            elif not self._put_damaged_away(name) and (current := self._current(name)):
                self._keep(current)
                self.path(name).unlink()
            storage.sync_folder(self._folder)

    def _put_damaged_away(self, name: str) -> bool:
        """Move a damaged file aside, since it may be all that is left of a text; False where it is not damaged."""
        try:
            self._current(name)
        except ConfigError:
            storage.make_folder(self._history(name))
            os.replace(self.path(name), self._history(name) / "damaged.json")
            return True
        return False

    def _unknown(self, name: str) -> NotFound:
        names = self.names()
        known = ", ".join(names[:10]) or "none yet; save one with save_prompt or `fleetshell prompt save`"
        return NotFound(
            f'There is no prompt "{name}".{nearest(name, names)} Saved prompts: {known}{" and more" if len(names) > 10 else ""}.'
        )

    def _read(self, name: str, path: Path) -> Prompt | None:
        """A prompt from a file; None where there is none."""
        try:
            storage.check_private(path, folder=False)
            info = os.stat(path)
            if info.st_size > LARGEST_FILE:
                raise ConfigError(f"{path} has {info.st_size:,} bytes, which is too much for a prompt.")
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{path} can't be read: {error.strerror}.") from None
        if not re.fullmatch(NAME, name):
            raise ConfigError(f"{path}: the file's name is no name of a prompt; allowed: {NAME_MEANS}, and `.json`.")
        return parse(raw, name, path, info.st_mtime)

    def _current(self, name: str) -> Prompt | None:
        """The prompt as it is now; where its file was changed by hand, with the number that it will be kept under."""
        prompt = self._read(name, self.path(name))
        if prompt is None:
            return None
        with contextlib.suppress(ConfigError):
            kept = self._read(name, self._kept_path(name, prompt.revision))
            if kept is None or kept.same_text(prompt):
                return prompt
        return replace(prompt, revision=max(self._kept(name), default=prompt.revision) + 1, author="")

    def _history(self, name: str) -> Path:
        return self._folder / ".history" / name

    def _kept_path(self, name: str, number: int) -> Path:
        return self._history(name) / f"{number}.json"

    def _kept(self, name: str) -> list[int]:
        try:
            found = os.listdir(self._history(name))
        except FileNotFoundError:
            return []
        return sorted(int(file[:-5]) for file in found if re.fullmatch(r"[1-9][0-9]{0,8}\.json", file))

    def _keep(self, prompt: Prompt) -> None:
        path = self._kept_path(prompt.name, prompt.revision)
        storage.make_folder(path.parent)
        if not path.exists():
            storage.write_atomic(path, prompt.to_json())

    def _replace(self, name: str, old: Prompt | None, description: str, content: str, by: Editor, event: str) -> Prompt:
        if old is not None and (old.description, old.content) == (description, content):
            return old
        if old is not None:
            self._keep(old)
        return self._write(name, old, description, content, by, event)

    def _write(self, name: str, old: Prompt | None, description: str, content: str, by: Editor, event: str) -> Prompt:
        kept = self._kept(name)
        now = utc(self._now())
        prompt = Prompt(
            name, description, content, old.created_at if old else now, now, max(kept, default=0) + 1, by.author, old.extra if old else {}
        )  # fmt: skip
        by.record(event, prompt=name, revision=prompt.revision, bytes=len(content.encode()))
        self._keep(prompt)
        self._put_damaged_away(name)
        storage.write_atomic(self.path(name), prompt.to_json())
        for number in kept[: max(len(kept) + 1 - MOST_REVISIONS, 0)]:
            self._kept_path(name, number).unlink(missing_ok=True)
        return prompt

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock of the database; a full disk becomes a sentence."""
        try:
            storage.make_folder(self._folder)
            with storage.locked(self._folder / ".lock"):
                yield
        except OSError as error:
            raise FleetShellError(
                f"The prompt could not be written to {self._folder}: {error.strerror}. What was there before is unchanged."
            ) from error
