"""The step-by-step connection test, against real servers that fail in each of the ways."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fleets import TestFleet, fleet_on
from support.sshd import KeyPair, Sshd, make_key

from fleetshell_tools.core.config import Config, Security, Ssh
from fleetshell_tools.core.errors import ConfigError, Unreachable
from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.fleet import diagnose
from fleetshell_tools.fleet.check import STEPS, Step, changed_keys, check

CONFIG = Config(ssh=Ssh(connect_timeout=5))
MakeSshd = Callable[..., Sshd]


@pytest.fixture
def fleet(tmp_path: Path, relay_key: KeyPair) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key, CONFIG) as made:
        yield made


def run(fleet: TestFleet, server_id: str) -> list[Step]:
    steps = check(fleet.fleet, fleet.inventory.get(server_id), time.monotonic() + 60, fleet.caller, Cancellation())
    assert tuple(step.name for step in steps) == STEPS
    return steps


def changed(fleet: TestFleet, server_id: str) -> list[str]:
    keys = changed_keys(fleet.fleet, fleet.inventory.get(server_id), time.monotonic() + 60, Cancellation())
    return [f"{key.kind} {key.blob}" for key in keys]


def failed(steps: list[Step], name: str) -> str:
    """The reason of the step `name`, before which all passed, and after which none was tried."""
    at = STEPS.index(name)
    assert [step.ok for step in steps] == [True] * at + [False] + [None] * (len(STEPS) - at - 1)
    assert all(step.ms is None for step in steps if step.ok is None)
    return steps[at].detail


def test_every_step_to_a_good_server_passes_and_has_a_time(fleet: TestFleet, sshd: Sshd) -> None:
    fleet.add("web-1", sshd)
    fleet.out("web-1", "true")
    steps = run(fleet, "web-1")
    assert [step.ok for step in steps] == [True] * 5
    assert all(step.ms is not None and step.ms >= 0 for step in steps)
    assert steps[0].detail == sshd.address
    assert steps[2].detail == fleet.fleet.fingerprints(fleet.inventory.get("web-1"))[0]
    assert steps[3].detail == f"as {sshd.user}; it offers: publickey"


def test_a_host_key_that_is_met_for_the_first_time_is_pinned(fleet: TestFleet, sshd: Sshd) -> None:
    fleet.add("web-1", sshd)
    assert all(step.ok for step in run(fleet, "web-1"))
    assert [f"{key.kind} {key.blob}" for key in fleet.fleet.host_keys.pinned("web-1")] == [sshd.host_key]


def test_the_command_goes_the_normal_road_and_is_in_the_audit_log(fleet: TestFleet, sshd: Sshd) -> None:
    fleet.add("web-1", sshd)
    run(fleet, "web-1")
    events = [(record["event"], record["command"]) for record in fleet.records()]
    assert events == [
        ("host_key_pinned", None),
        *(("started", "true"), ("finished", "true")),
        *(("started", "test"), ("finished", "test")),  # whom the login is, and its sudo
    ]


def test_a_guard_that_refuses_the_command_fails_the_last_step(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> None:
    with fleet_on(tmp_path, relay_key, Config(security=Security(dangerous_commands=("true",)))) as fleet:
        fleet.add("web-1", sshd)
        assert "Blocked" in failed(run(fleet, "web-1"), "command")


def test_a_name_that_does_not_exist_fails_to_resolve(fleet: TestFleet) -> None:
    fleet.add("web-1", hostname="host.invalid")
    assert "the name host.invalid could not be resolved" in failed(run(fleet, "web-1"), "resolve")


def test_a_closed_port_fails_to_connect(fleet: TestFleet, sshd_factory: MakeSshd) -> None:
    sshd = sshd_factory()
    fleet.add("web-1", sshd)
    sshd.stop()
    assert f"refuses connections on port {sshd.port}" in failed(run(fleet, "web-1"), "connect")


def test_a_host_that_hangs_fails_to_connect_although_its_port_is_open(fleet: TestFleet, sshd_factory: MakeSshd) -> None:
    sshd = sshd_factory()
    fleet.add("web-1", sshd, connect_timeout=1)
    sshd.freeze()
    assert "did not answer within 1 s" in failed(run(fleet, "web-1"), "connect")


def test_a_changed_host_key_is_told_apart_and_the_old_pin_stays(fleet: TestFleet, sshd_factory: MakeSshd) -> None:
    sshd = sshd_factory()
    fleet.add("web-1", sshd)
    run(fleet, "web-1")
    pinned = fleet.fleet.host_keys.pinned("web-1")
    sshd.change_host_key()
    fleet.fleet.connections.lost(fleet.fleet.connections.of(fleet.fleet.identity(fleet.inventory.get("web-1"))))
    reason = failed(run(fleet, "web-1"), "host_key")
    assert "has changed" in reason
    assert "fleetshell trust web-1" in reason
    assert fleet.fleet.host_keys.pinned("web-1") == pinned


def test_a_refused_login_names_the_methods_on_offer(fleet: TestFleet, sshd_factory: MakeSshd, tmp_path: Path) -> None:
    fleet.add("web-1", sshd_factory(authorized_keys=make_key(tmp_path / "other").public))
    reason = failed(run(fleet, "web-1"), "login")
    assert "it offers: publickey" in reason
    assert "fleetshell pubkey" in reason


def test_a_login_that_can_run_nothing_fails_at_the_command(fleet: TestFleet, sshd_factory: MakeSshd) -> None:
    fleet.add("web-1", sshd_factory(extra=["ForceCommand echo no shell for you"]))
    assert "no shell for you" in failed(run(fleet, "web-1"), "command")


def test_through_a_jump_server_the_first_steps_are_those_to_the_jump_server(
    fleet: TestFleet, sshd: Sshd, sshd_factory: MakeSshd
) -> None:
    inner = sshd_factory(addresses=("127.0.0.2",))
    fleet.add("bastion", sshd)
    fleet.add("web-1", inner, jump="bastion")
    steps = run(fleet, "web-1")
    assert [step.ok for step in steps] == [True] * 5
    assert [step.detail for step in steps[:2]] == [f"{sshd.address}, through bastion", "through bastion"]
    assert [f"{key.kind} {key.blob}" for key in fleet.fleet.host_keys.pinned("web-1")] == [inner.host_key]


def test_a_jump_server_that_is_down_is_named(fleet: TestFleet, sshd: Sshd, sshd_factory: MakeSshd) -> None:
    bastion = sshd_factory()
    fleet.add("bastion", bastion)
    fleet.add("web-1", sshd, jump="bastion")
    bastion.stop()
    assert f"bastion can't be reached: {bastion.address} refuses" in failed(run(fleet, "web-1"), "connect")


def test_a_jump_server_that_refuses_the_login_fails_the_connection(
    fleet: TestFleet, sshd: Sshd, sshd_factory: MakeSshd, tmp_path: Path
) -> None:
    fleet.add("bastion", sshd_factory(authorized_keys=make_key(tmp_path / "other").public))
    fleet.add("web-1", sshd, jump="bastion")
    assert "bastion can't be reached: 127.0.0.1 refused the login" in failed(run(fleet, "web-1"), "connect")


@pytest.mark.parametrize("known", [False, True], ids=["never met", "pinned"])
def test_what_the_jump_server_cannot_reach_is_not_called_overloaded(
    fleet: TestFleet, sshd: Sshd, sshd_factory: MakeSshd, known: bool
) -> None:
    inner = sshd_factory()
    fleet.add("bastion", sshd)
    fleet.add("web-1", inner, jump="bastion")
    if known:
        assert changed(fleet, "web-1") == [inner.host_key]
        fleet.fleet.host_keys.pin(
            "web-1", fleet.fleet.host_keys.fetch(fleet.fleet.identity(fleet.inventory.get("web-1")))
        )
    inner.stop()
    assert f"its jump server bastion could not open a connection to 127.0.0.1 port {inner.port}" in failed(
        run(fleet, "web-1"), "connect"
    )


def test_a_jump_server_that_does_not_exist_is_a_fault_of_the_configuration(fleet: TestFleet, sshd: Sshd) -> None:
    fleet.add("web-1", sshd, jump="bastion")
    with pytest.raises(ConfigError, match="bastion"):
        run(fleet, "web-1")


def test_keys_have_changed_only_where_no_pin_holds(fleet: TestFleet, sshd_factory: MakeSshd) -> None:
    sshd = sshd_factory()
    fleet.add("web-1", sshd)
    assert changed(fleet, "web-1") == [sshd.host_key]
    run(fleet, "web-1")
    assert changed(fleet, "web-1") == []
    sshd.change_host_key()
    assert changed(fleet, "web-1") == [sshd.host_key]
    sshd.stop()
    with pytest.raises(Unreachable) as caught:
        changed(fleet, "web-1")
    assert caught.value.step == "connect"


def test_a_pin_of_another_key_type_still_holds(fleet: TestFleet, sshd_factory: MakeSshd, tmp_path: Path) -> None:
    """ssh alone would ask for the type that it likes best, and find that one unknown."""
    rsa = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(rsa)], check=True)
    sshd = sshd_factory(extra=[f"HostKey {rsa}"])
    fleet.add("web-1", sshd)
    kind, blob = rsa.with_suffix(".pub").read_text().split()[:2]
    (fleet.home.path / "known_hosts").write_text(f"web-1 {kind} {blob}\n")
    (fleet.home.path / "known_hosts").chmod(0o600)
    assert changed(fleet, "web-1") == []
    assert all(step.ok for step in run(fleet, "web-1"))


def test_what_a_jump_server_cannot_reach_is_not_taken_for_a_busy_host_and_asked_again() -> None:
    closed = "kex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535\n"
    assert diagnose.started_late(closed)
    assert not diagnose.started_late("Stdio forwarding request failed: Session open refused by peer\n" + closed)
