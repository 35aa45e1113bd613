"""Files written so that nothing is lost, locks between processes, and refusals that name the command that mends."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetshell_tools.core import storage
from fleetshell_tools.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, so that its limits are not ours."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Atomic writing


def test_a_file_is_replaced_whole_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old and longer")
    path.chmod(0o644)
    storage.write_atomic(path, "neu: é")
    assert path.read_text(encoding="utf-8") == "neu: é"
    assert mode(path) == 0o600
    storage.write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["file"]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    code = "import os, sys, pathlib; from fleetshell_tools.core import storage; os.umask(int(sys.argv[2], 8)); storage.write_atomic(pathlib.Path(sys.argv[1]), 'x')"
    for umask in ("0", "777"):
        done = python(code, tmp_path / umask, umask)
        assert done.returncode == 0, done.stderr
        assert mode(tmp_path / umask) == 0o600


def test_another_mode_can_be_asked_for(tmp_path: Path) -> None:
    storage.write_atomic(tmp_path / "public", "x", 0o644)
    assert mode(tmp_path / "public") == 0o644


def test_a_symbolic_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(target)
    storage.write_atomic(link, "new")
    assert target.read_text() == "precious"
    assert not link.is_symlink()
    assert link.read_text() == "new"


def test_a_link_planted_at_the_temporary_name_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    target = tmp_path / "target"
    (tmp_path / ".file.guessed.tmp").symlink_to(target)
    with pytest.raises(FileExistsError):
        storage.write_atomic(tmp_path / "file", "x")
    assert not target.exists()
    assert not (tmp_path / "file").exists()


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = """
import pathlib, resource, signal, sys
from fleetshell_tools.core import storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    storage.write_atomic(pathlib.Path(sys.argv[1]), "x" * 10_000)
except OSError as error:
    sys.exit(f"OSError {error.errno}")
"""
    done = python(code, path)
    assert "OSError 27" in done.stderr
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@as_root
def test_a_really_full_disk_leaves_the_old_file_and_works_again_once_there_is_room(small_disk: Path) -> None:
    path = small_disk / "file"
    storage.write_atomic(path, "old")
    with pytest.raises(OSError, match="No space left"):
        storage.write_atomic(path, "x" * 100_000)
    assert path.read_text() == "old"
    assert os.listdir(small_disk) == ["file"]
    storage.write_atomic(path, "new")
    assert path.read_text() == "new"


def test_a_failed_rename_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        storage.write_atomic(tmp_path / "folder", "x")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_missing_folder_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.write_atomic(tmp_path / "missing" / "file", "x")
    assert os.listdir(tmp_path) == []


def test_a_reader_sees_the_old_or_the_new_file_while_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    storage.write_atomic(path, "a" * 50_000)
    stop = threading.Event()

    def write() -> None:
        for _ in range(100):
            storage.write_atomic(path, "b" * 50_000)
            storage.write_atomic(path, "a" * 50_000)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not stop.is_set():
        seen.add(path.read_text())
    writer.join()
    assert seen <= {"a" * 50_000, "b" * 50_000}


def test_a_writer_that_is_killed_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = """
import itertools, pathlib, sys
from fleetshell_tools.core import storage
path = pathlib.Path(sys.argv[1])
for number in itertools.count():
    storage.write_atomic(path, f"{number} " * 20_000)
    print(number, flush=True)
"""
    for turn in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert writer.stdout
        with writer.stdout:
            for _ in range(turn + 1):  # it goes on writing while it is killed
                assert writer.stdout.readline()
        writer.kill()
        writer.wait()
        words = path.read_text().split()
        assert len(words) == 20_000 and len(set(words)) == 1, "half of one file and half of another"


def test_every_folder_that_is_made_is_private(tmp_path: Path) -> None:
    code = "import os, sys, pathlib; from fleetshell_tools.core import storage; os.umask(0); print(storage.make_folder(pathlib.Path(sys.argv[1])))"
    done = python(code, tmp_path / "a" / "b" / "c")
    assert done.stdout == "True\n", done.stderr
    assert [mode(tmp_path / part) for part in ("a", "a/b", "a/b/c")] == [0o700] * 3
    assert storage.make_folder(tmp_path / "a") is False


# Locks

HOLD = """
import pathlib, sys
from fleetshell_tools.core import storage
with storage.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that holds a lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_excludes_another_process_until_it_ends_even_by_kill(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        assert storage.try_lock(path) is None
        process.kill()
        process.wait()
    fd = storage.try_lock(path)
    assert fd is not None
    os.close(fd)
    assert mode(path) == 0o600


def test_two_processes_that_count_under_the_lock_lose_nothing(tmp_path: Path) -> None:
    code = """
import pathlib, sys
from fleetshell_tools.core import storage
folder = pathlib.Path(sys.argv[1])
for _ in range(100):
    with storage.locked(folder / "lock"):
        storage.write_atomic(folder / "count", str(int((folder / "count").read_text()) + 1))
"""
    (tmp_path / "count").write_text("0")
    threads = [threading.Thread(target=python, args=(code, tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "count").read_text() == "200"


def test_a_lock_excludes_other_threads_and_is_given_back_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), storage.locked(path):
        assert storage.try_lock(path) is None
        raise ZeroDivisionError
    fd = storage.try_lock(path)
    assert fd is not None
    assert storage.try_lock(path) is None
    os.close(fd)


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    for take in (storage.try_lock, lambda path: storage.locked(path).__enter__()):
        with pytest.raises(OSError, match="symbolic links"):
            take(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


# Refusals


def refusal(path: Path, *, folder: bool = False, secret: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        if secret:
            storage.check_secret(path)
        else:
            storage.check_private(path, folder=folder)
    assert str(path) in caught.value.message
    return caught.value.message


def mended_by(message: str) -> None:
    """Run the command that a refusal names."""
    command = message.split("Run `", 1)[1].split("`", 1)[0]
    subprocess.run(shlex.split(command), check=True)


@pytest.mark.parametrize("bits", [0o620, 0o602, 0o666, 0o622])
def test_a_file_that_others_can_change_is_refused_and_the_named_command_mends_it(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(bits)
    message = refusal(path)
    assert f"mode {bits:04o}" in message
    mended_by(message)
    storage.check_private(path, folder=False)
    assert mode(path) == 0o600


def test_a_folder_that_others_can_change_is_refused_and_the_named_command_mends_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o775)
    mended_by(refusal(folder, folder=True))
    storage.check_private(folder, folder=True)
    assert mode(folder) == 0o700


def test_a_secret_that_others_can_read_is_refused_and_the_named_command_mends_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch()
    path.chmod(0o640)
    storage.check_private(path, folder=False)
    mended_by(refusal(path, secret=True))
    storage.check_secret(path)


def test_a_symbolic_link_is_refused_wherever_it_points(tmp_path: Path) -> None:
    (tmp_path / "real").touch(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "missing")
    for name in ("link", "dangling"):
        assert "is a symbolic link" in refusal(tmp_path / name)
        assert "is a symbolic link" in refusal(tmp_path / name, secret=True)


def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(0o700)
    assert "is no file" in refusal(tmp_path / "pipe")
    assert "is no file" in refusal(tmp_path / "folder")
    assert "is no folder" in refusal(tmp_path / "pipe", folder=True)


@as_root
def test_a_foreign_owner_is_refused_and_the_named_command_mends_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(0o600)
    os.chown(path, 65534, -1)
    message = refusal(path)
    assert "belongs to uid 65534, but FleetShell runs as uid 0" in message
    command = message.split("Run `", 1)[1].split("`", 1)[0]
    subprocess.run(["sh", "-c", command], check=True)
    storage.check_private(path, folder=False)


def test_what_a_killed_writer_has_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    left, young, others = (
        ".a.yaml.0123456789ab.tmp",
        ".b.yaml.0123456789ab.tmp",
        [".a.tmp", "a.0123456789ab.tmp", ".x.1.tmp"],
    )
    for name in (left, young, *others):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (1, 1))
    os.utime(tmp_path / young)
    (tmp_path / ".d.0123456789ab.tmp").mkdir()
    (tmp_path / ".l.0123456789ab.tmp").symlink_to("/etc/passwd")
    os.utime(tmp_path / ".l.0123456789ab.tmp", (1, 1), follow_symlinks=False)
    assert storage.sweep(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == sorted([young, *others, ".d.0123456789ab.tmp", ".l.0123456789ab.tmp"])
    assert storage.sweep(tmp_path / "missing") == 0


def test_a_write_that_fails_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        storage.write_atomic(tmp_path / "file", "x")
    assert caught.value.filename == str(tmp_path / "file")
