"""The emergency stop: a file alone says that everything is stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fleetshell_tools.core.emergency import Emergency
from fleetshell_tools.core.errors import Locked


def test_it_holds_for_every_process_until_it_is_lifted(tmp_path: Path) -> None:
    stop, other = Emergency(tmp_path / "locked.json"), Emergency(tmp_path / "locked.json")
    other.check()
    stop.engage("cli:me")
    assert other.engaged and (tmp_path / "locked.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Locked, match=r"locked this relay since 2\d{3}-.*`fleetshell unlock`"):
        other.check()
    other.lift()
    stop.check()
    stop.lift()


def test_the_first_who_stops_everything_is_remembered(tmp_path: Path) -> None:
    stop = Emergency(tmp_path / "locked.json")
    stop.engage("cli:first")
    stop.engage("cli:second")
    assert json.loads((tmp_path / "locked.json").read_text())["by"] == "cli:first"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_file_stops_everything_all_the_same(tmp_path: Path, content: str) -> None:
    (tmp_path / "locked.json").write_text(content)
    with pytest.raises(Locked):
        Emergency(tmp_path / "locked.json").check()


def test_where_it_cannot_be_known_everything_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("no folder")
    assert Emergency(tmp_path / "run" / "locked.json").engaged


def test_a_disk_without_room_for_its_content_does_not_keep_anybody_from_stopping_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    Emergency(tmp_path / "locked.json").engage("cli:me")
    with pytest.raises(Locked):
        Emergency(tmp_path / "locked.json").check()
