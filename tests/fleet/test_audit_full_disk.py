"""No audit, no action: with the audit log on a disk that is really full nothing new runs, and what ran is still recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.audit_place import occupy, small_disks
from support.fleets import TestFleet, fleet_on
from support.sshd import KeyPair, Sshd

from fleetshell_tools.core.audit_verification import verify
from fleetshell_tools.core.errors import AuditUnavailable


@pytest.fixture
def web(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[TestFleet]:
    with small_disks(tmp_path / "small") as mount:
        with fleet_on(mount(4096).folder, relay_key) as fleet:
            fleet.audit.reserve_path = fleet.home.audit_reserve
            fleet.add("web", sshd)
            yield fleet


def test_on_a_full_disk_nothing_runs_and_the_outcome_of_what_ran_is_recorded(web: TestFleet, tmp_path: Path) -> None:
    web.run("web", "true")
    before = len(web.records())
    ballast = web.home.path / "ballast"
    # The command itself fills the disk, so its outcome is the first thing that finds no room.
    assert web.run("web", f"head -c 1G /dev/zero > '{ballast}' 2>/dev/null; echo {'x' * 4500}").exit_code == 0
    assert [record["event"] for record in web.records()[before:]] == ["started", "finished"]
    for _ in range(2):
        with pytest.raises(AuditUnavailable, match=r"nothing (new )?may run.*Free space on the file system"):
            web.run("web", f"touch '{tmp_path}/ran' # {'x' * 4500}")
    assert not (tmp_path / "ran").exists()
    ballast.unlink()
    web.run("web", f"touch '{tmp_path}/ran'")
    assert (tmp_path / "ran").exists()
    web.audit.close()
    found = verify(web.home.logs / "audit.log", web.home.audit_key, web.home.audit_head)
    assert found.ok and not found.notes, found.problem


def test_a_disk_that_fills_between_two_commands_refuses_the_second(web: TestFleet, tmp_path: Path) -> None:
    web.run("web", "true")
    occupy(web.home.path / "ballast")
    with pytest.raises(AuditUnavailable, match=f"df -h {web.home.path}"):
        for _ in range(20):  # what is left of the last block of the log takes some
            web.run("web", f"echo >> '{tmp_path}/ran' # {'x' * 4500}")
    ran = (tmp_path / "ran").read_text().count("\n") if (tmp_path / "ran").exists() else 0
    started = [record for record in web.records() if record["event"] == "started"]
    assert len(started) == ran + 1, "each command that ran has its intent, and no other"
