"""The guard against the truth: labelled commands run in a cage, and what they would have destroyed is compared with the verdict.

Only commands whose every program is there, and is one that this test can judge, are compared. The judgement here is made from
what was executed, after a real shell has expanded it, by a few lines that share nothing with the guard.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.guard_corpus import Labelled, corpus

from fleetshell_tools.core.types import Act
from fleetshell_tools.fleet.guard import DEFAULT_ENTRIES, Guard

CAGE = Path(__file__).parents[1] / "support" / "cage.py"
GUARD = Guard(DEFAULT_ENTRIES)

EXPLAINED = {
    "environment": "refused for whose code would be loaded, and nothing stands there in the cage",
    "remote-shell": "refused for who would get a shell; the cage has no network",
    "undecodable-code": "refused because the code cannot be known; here there is none",
    "write-startup": "refused for what would run later",
    "delete-list": "refused because the list is not seen; here it names nothing",
    "stop-logins": "refused for a service that the cage has not",
    "unresolved-command": "refused because it cannot be known; here it is nothing",
}
"""Rules that refuse what destroys nothing when it is run in the cage."""

EXCEPTIONS = {
    "x=toober; y=; for((i=5;i>=0;i--)); do y+=${x:i:1}; done; $y": "a known miss: arithmetic is not evaluated",
    ". <(printf 'rm -rf /etc')": "the cage has no /dev/fd, so there is no process substitution",
    "xargs -a <(echo /etc) rm -rf": "the same",
    "alias ls='rm -rf /etc'; eval ls": "bash expands aliases at a prompt alone; a session has one",
    'mkfs.ext4 "$DEVICE"': "the variable is not set here; in a session it may be",
    "alias sudo='rm -rf /'; sudo ls": "the same",
    "cat > /tmp/r.sh <<E\nrm -rf /usr\nE\nchmod +x /tmp/r.sh; /tmp/r.sh": "the cage's chmod is a stub",
    'find / -name "*.log" -exec rm {} \\;': "the cage has no such file",
    "chown -R www-data:www-data /var/www": "what web servers document; `/var/www` is data, and only its mode may be lost",
    "find /usr /lib -depth ! -type d -delete": "the cage's programs cannot be deleted, or nothing more would run in it",
    "find /etc /usr -newer /tmp/x -o -type f -delete": "the same, and find gives up at the missing /tmp/x",
    "echo reboot > /tmp/q; chmod +x /tmp/q; /tmp/q": "the cage's chmod is a stub, so the script cannot be run",
}
"""Single commands whose verdict and outcome differ, and why that is right."""

_WHOLE = {"/"} | {
    f"/{name}"
    for name in "bin boot data dev etc home lib lib64 libexec lib32 media mnt opt proc root run sbin srv sys usr var backup export".split()
}
_WHOLE |= {
    "/var/lib/dpkg",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/share",
    "/var/lib",
    "/var/www",
    "/etc/ssh",
    "/boot/grub",
    "/boot/efi",
    "/lib/modules",
    "/home/alice",
}
_FILES = {f"/etc/{name}" for name in "passwd shadow group gshadow sudoers fstab ssh/sshd_config".split()}
_FILES |= {
    "/root/.ssh/authorized_keys",
    "/root/.ssh",
    "/bin/bash",
    "/bin/sh",
    "/usr/bin/bash",
    "/lib64/ld-linux-x86-64.so.2",
    "/etc/nginx/../../usr",
}
_BEGINNINGS = ("/usr/bin/", "/bin/", "/etc/ssh/", "/home/deploy/.ssh/", "/boot/vmlinuz")
_CONTENT = {
    "/srv/data/a",
    "/srv/data",
    "/srv/uploads/a",
    "/data/a",
    "/mnt/nas/a",
    "/mnt/share/a",
    "/mnt/storage/a",
    "/mnt/backup/a",
    "/export/b",
    "/media/usb/a",
}
_CONTENT |= {
    "/var/www/html",
    "/home/alice/notes",
    "/home/deploy",
    "/root/payload",
    "/var/lib/mysql",
    "/var/lib/mysql/ibdata1",
    "/var/lib/docker/x",
}
"""Files that stand in the cage for all that people keep there."""
_NEVER_CHANGED = {"var/lib/dpkg/status", "proc/sysrq-trigger", "sys/power/state", "var/lib/postgresql/16/main/base/1"}
_POWER = {"poweroff", "halt", "reboot", "kexec", "suspend", "hibernate", "isolate"}
_HELP = {"--help", "--version", "-V", "-c", "-l", "-k", "--list"}


def destroys(record: Sequence[str]) -> bool | None:
    """Whether what was executed destroys something; None where this test cannot say."""
    folder, program, *arguments = record
    words = set(arguments)
    if words & {"--help", "--version"}:
        return False
    given = [word for word in arguments if not word.startswith("-")]
    paths = [posixpath.normpath(posixpath.join(folder, word)).replace("//", "/") for word in given]
    lost = [path for path in paths if path in _WHOLE | _FILES or path.startswith(_BEGINNINGS)]
    if program in ("rm", "unlink", "shred", "truncate"):
        return bool(lost) or any(path.startswith("/dev/") for path in paths) or any(path in _CONTENT for path in paths)
    if program == "mv":
        moved = paths if "-t" in words else paths[:-1]
        return bool(set(moved) & set(lost)) or (paths or [""])[-1].startswith("/dev/")
    if program in ("chmod", "chown", "chgrp"):
        recursive = any((word.startswith("-") and "R" in word) or word == "--recursive" for word in words)
        return bool(lost) and (recursive or bool(words & {"000", "0", "-x", "777", "u+s"} or program == "chown"))
    if program == "dd":
        return any(word.startswith("of=/dev/") and word not in ("of=/dev/null", "of=/dev/stdout") for word in arguments)
    if program.startswith(("mkfs", "mke2fs", "mkswap")):
        return any(path.startswith("/dev/") for path in paths) and not words & _HELP
    if program in ("shutdown", "reboot", "poweroff", "halt"):
        return not words & _HELP
    if program in ("init", "telinit"):
        return bool(words & {"0", "1", "6"})
    if program == "systemctl":
        return True if words & _POWER else None
    if program == "kill":
        return bool({"-1", "1"} & set(arguments[1:])) or arguments == ["-1"]
    return True if program == "ip" and "down" in words else None


@pytest.fixture(scope="module")
def cage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux, for a chroot and namespaces")
    if not shutil.which("bash") or not shutil.which("ldd"):
        pytest.skip("needs bash and ldd")
    root = tmp_path_factory.mktemp("cage")
    probe = run_caged(root / "probe", ["rm -rf /etc"])
    if probe is None:
        pytest.skip("namespaces cannot be made here")
    assert probe[0]["ran"] == [["/root", "rm", "-rf", "/etc"]]
    return root


def run_caged(root: Path, commands: list[str]) -> list[dict[str, Any]] | None:
    root.mkdir()
    done = subprocess.run(
        [sys.executable, str(CAGE)],
        input=json.dumps({"root": str(root), "commands": commands}),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0 and "could not be closed" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


SOAK = bool(os.environ.get("FLEETSHELL_SOAK"))


def comparable(row: Labelled, number: int) -> bool:
    """A fork bomb would not stop at the cage's limits; the rest of what cannot be compared is found out by running it.

    Of the many commands that came later every eighth is run, and all with FLEETSHELL_SOAK=1.
    """
    if row.half > 3 and number % 8 and not SOAK:
        return False
    return row.kind != "forkbomb" and "fork" not in row.command and "yes" not in row.command.split()


@pytest.mark.parametrize("name", ["development", "own"])
def test_the_verdict_agrees_with_what_was_executed(name: str, cage: Path) -> None:
    rows = [row for number, row in enumerate(corpus(name)) if comparable(row, number)]
    outcomes = run_caged(cage / name, [row.command for row in rows])
    assert outcomes is not None
    wrong, compared = [], {True: 0, False: 0}
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome["missing"] or outcome["timed_out"]:
            continue
        judged = [destroys(record) for record in outcome["ran"]]
        devices = [name for name in outcome["changed"] if name.startswith("dev/") and name != "dev/null"]
        emptied = [name for name in outcome["changed"] if name in _NEVER_CHANGED or f"/{name}" in _FILES]
        emptied += [name for name in outcome["gone"] if not name.startswith(("tmp/", "var/tmp/"))]
        destructive = any(judged) or bool(devices or emptied)
        if None in judged and not destructive:
            continue
        compared[destructive] += 1
        verdict = GUARD.judge(Act(row.command, login_user="root"))
        if row.half > 3 and verdict.allowed != row.dangerous:
            continue  # of many of these `destroys` knows too little; where label and verdict agree, that is enough
        if verdict.allowed == destructive and not (verdict.rule in EXPLAINED or row.command in EXCEPTIONS):
            wrong.append((row.command, verdict.rule or "allowed", outcome["ran"], outcome["changed"]))
    assert wrong == []
    assert compared[True] >= 60 and compared[False] >= 40, compared
