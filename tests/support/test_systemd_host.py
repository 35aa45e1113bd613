"""Tests of the systemd host that other tests work on: it is a real one, and FleetShell's own fleet reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes
from support.fleets import TestFleet, fleet_on
from support.processes import wait_until
from support.sshd import KeyPair
from support.systemd_host import USERS, SystemdHost


@pytest.fixture
def fleet(systemd_host: SystemdHost, relay_key: KeyPair, short_tmp: Path) -> Iterator[TestFleet]:
    """A fleet whose servers are the host's users."""
    with fleet_on(short_tmp, relay_key) as fleet:
        for user in USERS:
            fleet.add(user, **systemd_host.server(user))
        yield fleet


def test_systemctl_answers(fleet: TestFleet) -> None:
    assert (
        fleet.out("plain", "systemctl is-active demo-ok.service demo-tick.timer demo-echo.socket nginx")
        == "active\n" * 4
    )
    assert fleet.out("plain", "systemctl is-failed demo-fail.service") == "failed\n"


def test_the_journal_holds_every_priority_and_the_message_of_the_unit_that_failed(fleet: TestFleet) -> None:
    priorities = "journalctl -u demo-ok -o json --output-fields=PRIORITY | grep -o 'PRIORITY\":\"[0-7]' | sort -u"
    assert [line[-1] for line in fleet.out("root", priorities).splitlines()] == ["3", "4", "6", "7"]
    assert "cannot read /etc/demo/config.yml" in fleet.out("root", "journalctl -u demo-fail -p err -o cat")


def test_one_user_may_use_sudo_and_the_other_may_not_even_read_the_journal(fleet: TestFleet) -> None:
    assert fleet.out("admin", "sudo -n id -un") == "root\n"
    refused = fleet.run("plain", "sudo -n id -un")
    assert (refused.exit_code, refused.stdout.head) == (1, b"")
    assert "demo-ok" not in fleet.out("plain", "journalctl -u demo-ok 2>&1")


def test_nginx_has_logs_of_real_requests_that_were_rotated(systemd_host: SystemdHost, fleet: TestFleet) -> None:
    assert systemd_host.get("/", "192.0.2.99") == 200
    assert "192.0.2.99 - - [" in fleet.out("admin", "sudo cat /var/log/nginx/access.log")
    for log in ("cat /var/log/nginx/access.log.1", "zcat /var/log/nginx/access.log.2.gz"):
        statuses = {line.split('"')[2].split()[0] for line in fleet.out("root", log).splitlines()}
        assert statuses == {"200", "403", "404", "502"}, log
    assert "access forbidden by rule" in fleet.out("root", "zcat /var/log/nginx/error.log.2.gz")


def test_a_second_host_has_services_of_its_own_and_leaves_nothing(
    systemd_host: SystemdHost, relay_key: KeyPair, tmp_path: Path
) -> None:
    second = SystemdHost(tmp_path / "second", relay_key)
    try:
        second.run("root", "systemctl stop nginx && touch /etc/only-here")
        assert (
            systemd_host.run("root", "systemctl is-active nginx; ls /etc | grep -c only-here || true") == "active\n0\n"
        )
    finally:
        second.stop()
    assert not processes.alive(second.mark)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not [cgroup for cgroup in second.cgroups if cgroup.exists()]


def test_what_a_login_left_running_is_found(systemd_host: SystemdHost) -> None:
    systemd_host.run("plain", "setsid sleep 300 </dev/null >/dev/null 2>&1 &")
    wait_until(
        lambda: [found.command for found in systemd_host.remote_processes()] == ["sleep 300"], 10, "sleep is found"
    )
    systemd_host.run("root", "pkill -u plain sleep")
    wait_until(lambda: not systemd_host.remote_processes(), 10, "nothing is left")
