"""Letting a person edit a file of the home in their editor, without ever losing what they wrote."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from fleetshell_tools.cli import output
from fleetshell_tools.core import storage
from fleetshell_tools.core.errors import ConfigError, FleetShellError, UsageError

FALLBACKS = ("vi", "nano")


def edit(path: Path, workshop: Path, check: Callable[[str], None], save: Callable[[str], None]) -> int:
    """Edit a copy of a file, and save it once it is valid.

    Args:
        path: The file; it stays as it is until `save`.
        workshop: A private folder, where the copy is made in a folder of its own.
        check: Raises `ConfigError` where the text is invalid.
        save: Replaces the file by the text.

    Returns:
        The exit code: 0 where the file was saved or nothing was changed.

    Raises:
        ConfigError: The text is invalid and nobody can be asked; it was kept aside.
        FleetShellError: No editor, or the file was changed by somebody else meanwhile.
    """
    editor = _editor()
    before = _read(path)
    folder = Path(tempfile.mkdtemp(prefix=".edit-", dir=workshop))
    copy = folder / path.name
    try:
        storage.write_atomic(copy, before)
        code = _until_valid(path, copy, editor, before, check, save)
    except OSError as error:
        # The folder stays: what the person wrote may be nowhere else.
        raise FleetShellError(f"{path} could not be saved: {error.strerror}. What you wrote is in {copy}.") from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)
    return code


def _until_valid(
    path: Path, copy: Path, editor: list[str], before: bytes, check: Callable[[str], None], save: Callable[[str], None]
) -> int:
    while True:
        try:
            _run(editor, copy)
        except FleetShellError as error:
            written = _read(copy)
            if written == before:
                raise
            # An editor that crashed may have saved first; one that was left by `:cq` may be regretted.
            raise FleetShellError(f"{error.message[:-1]}. What you wrote is in {_keep(path, written)}.") from None
        written = _read(copy)
        if written == before:
            print("Nothing was changed.")
            return 0
        try:
            text = _text(written, path)
            check(text)
        except ConfigError as error:
            if not output.interactive():
                aside = _keep(path, written)
                raise ConfigError(f"{error.message} The old file stays; what you wrote is in {aside}.") from None
            print(error.message, file=sys.stderr)
            choice = _choice()
            if choice == "d":
                print("Nothing was changed.")
                return FleetShellError.exit_code
            if choice == "k":
                print(f"The old file stays; what you wrote is in {_keep(path, written)}.")
                return ConfigError.exit_code
            continue
        if not path.exists() or _read(path) != before:
            aside = _keep(path, written)
            raise FleetShellError(
                f"{path} was changed by somebody else while you edited it. It stays as it is; what you wrote is in {aside}."
            )
        try:
            save(text)
        except FleetShellError as error:
            aside = _keep(path, written)
            raise FleetShellError(f"{error.message} The old file stays; what you wrote is in {aside}.") from None
        return 0


def _choice() -> str:
    """What to do with an invalid text: `e`dit again, `d`iscard or `k`eep it aside."""
    try:
        while True:
            answer = output.ask("Edit again, discard, or keep it aside? (e/d/k)", "e").lower()
            if answer[:1] in ("e", "d", "k"):
                return answer[:1]
    except (UsageError, KeyboardInterrupt):
        return "k"


def _editor() -> list[str]:
    """The editor with its arguments.

    Raises:
        FleetShellError: None is set and none is installed, or the one that is set does not exist.
    """
    for variable in ("VISUAL", "EDITOR"):
        value = os.environ.get(variable, "").strip()
        if not value:
            continue
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise FleetShellError(f"${variable} can't be read as a command ({error}): {value}") from None
        if not shutil.which(words[0]):
            raise FleetShellError(f"${variable} names {words[0]}, which is not installed. Set it to an editor that is.")
        return words
    found = next((path for name in FALLBACKS if (path := shutil.which(name))), None)
    if found is None:
        raise FleetShellError(
            "There is no editor: neither $VISUAL nor $EDITOR is set, and neither vi nor nano is installed."
        )
    return [found]


def _run(editor: list[str], file: Path) -> None:
    process = subprocess.Popen([*editor, str(file)])
    # Ctrl-C belongs to the editor: it must not end us and take the text along.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    if code != 0:
        raise FleetShellError(f"The editor ({editor[0]}) ended with status {code}; nothing was changed.")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FleetShellError(f"{path} can't be read: {error.strerror}.") from None


def _text(raw: bytes, path: Path) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 text (byte {error.start}).") from None


def _keep(path: Path, written: bytes) -> Path:
    aside = path.with_name(f"{path.name}.rejected")
    storage.write_atomic(aside, written)
    return aside
