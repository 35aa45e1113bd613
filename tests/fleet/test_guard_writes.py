"""What the guard says of whole files that come from outside, as `write_file` brings them: `cat > PATH`."""

from __future__ import annotations

import shlex

import pytest

from fleetshell_tools.core.types import Act, Verdict
from fleetshell_tools.fleet.guard import DEFAULT_ENTRIES, Guard

GUARD = Guard(DEFAULT_ENTRIES)


def judge(command: str, guard: Guard = GUARD) -> Verdict:
    return guard.judge(Act(command, b"rm -rf /\n", login_user="admin"))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/crontab",
        "/etc/cron.d/backup",
        "/etc/cron.daily/with space",
        "/var/spool/cron/crontabs/root",
        "/etc/systemd/system/app.service",
        "/etc/systemd/system/ssh.service.d/override.conf",
        "/usr/lib/systemd/system/ssh.service",
        "/etc/init.d/app",
        "/etc/rc.local",
        "/etc/ld.so.preload",
        "/etc/ld.so.conf.d/x.conf",
        "/etc/pam.d/sshd",
        "/etc/sudoers.d/admin",
        "/etc/ssh/sshd_config.d/x.conf",
        "/etc/profile",
        "/etc/profile.d/x.sh",
        "/root/.bashrc",
        "/home/bob/.profile",
        "/home/bob/.ssh/authorized_keys2",
        "/boot/grub/custom.cfg",
        "/tmp/../etc/cron.d/x",
    ],
)
def test_a_file_of_login_boot_cron_unit_or_loader_needs_an_approval(path: str) -> None:
    verdict = judge(f"cat > {shlex.quote(path)}")
    assert (verdict.allowed, verdict.kind, verdict.rule, verdict.approvable) == (
        False,
        "startup",
        "write-startup",
        True,
    )


def test_the_login_users_own_start_up_files_are_known_by_the_tilde() -> None:
    assert judge("cat > ~/.bashrc").kind == "startup"
    assert judge("cat > .bashrc").kind == "startup"


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/etc/sudoers", "/etc/fstab", "/home/bob/.ssh/authorized_keys", "/bin/sh"]
)
def test_a_file_without_which_nobody_logs_in_is_never_written(path: str) -> None:
    verdict = judge(f"cat > {path}")
    assert (verdict.allowed, verdict.kind, verdict.approvable) == (False, "filesystem", False)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/nginx/nginx.conf",
        "/etc/hosts",
        "/etc/motd",
        "/srv/app/crontab",
        "/home/bob/notes",
        "/etc/cron.d",
        "/var/www/boot/x",
    ],
)
def test_any_other_file_passes_whatever_its_content(path: str) -> None:
    assert judge(f"cat > {path}").allowed


@pytest.mark.parametrize(
    "command",
    [
        "cat > /etc/systemd/system/app.service <<'EOF'\n[Unit]\nEOF",
        "cat template | sed s/a/b/ > /etc/profile.d/app.sh",
        "cat app.service > /etc/systemd/system/app.service",
    ],
)
def test_content_that_stands_in_the_command_or_on_the_host_is_judged_as_ever(command: str) -> None:
    assert GUARD.judge(Act(command)).allowed


def test_an_operator_can_allow_the_class() -> None:
    assert judge("cat > /etc/cron.d/x", Guard(DEFAULT_ENTRIES, {"startup": "allow"})).allowed


def test_a_large_content_is_not_too_intricate() -> None:
    assert GUARD.judge(Act("cat > /srv/data", b"$(reboot) `x` \\ \n" * 100_000)).allowed
