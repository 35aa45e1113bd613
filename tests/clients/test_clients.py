"""Real clients end to end over TLS: locked, unlocked, progress, cancelling, a restart, and changes of the tool list."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import programs
from conformance.registry import serving
from support.processes import wait_until
from support.relay import RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd

from clients.driver import Answer, Driver
from clients.kinds import KINDS, LEGACY, MODERN, Kind, Target

LOCKED = (-32001, "totp_required")
WELCOME = "Successfully authenticated. Session valid for 1 hour."
MARK = "dev.fleetshell/session"
ARGUMENT = "fleetshell_session"

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", autouse=True)
def the_programs() -> None:
    programs.need()


@pytest.fixture
def home(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> RelayHome:
    """A home of this test's own: none of its TOTP codes has been used."""
    home = make_home(tmp_path / "home", relay_key.private)
    home.add("web-1", sshd)
    return home


class User:
    """Somebody who works with one client of a relay; carries the grant where the client keeps no cookies."""

    def __init__(self, kind: Kind, home: RelayHome, driver: Driver) -> None:
        self.kind = kind
        self.home = home
        self.driver = driver
        self._handle = ""

    def call(self, tool: str, **arguments: Any) -> Answer:
        return self.driver.answer(self.begin(tool, **arguments))

    def begin(self, tool: str, *, progress: bool = False, **arguments: Any) -> int:
        meta = None
        if self._handle and self.kind.carrier == "argument":
            arguments[ARGUMENT] = self._handle
        elif self._handle and self.kind.carrier == "meta":
            meta = {MARK: self._handle}
        return self.driver.begin(tool, arguments, meta, progress=progress)

    def unlock(self, code: str) -> None:
        self._handle = ""
        said = self.call("authenticate", code=code)
        assert said.text.startswith(WELCOME), said
        self._handle = said.structured.get(ARGUMENT) or ""
        assert bool(self._handle) == self.kind.modern, "the handle is for clients of the modern era alone"


def is_locked(answer: Answer) -> bool:
    return answer.error is not None and (answer.error["code"], answer.reason) == LOCKED


@each_kind
def test_a_client_from_its_first_call_to_a_restart_of_the_relay(kind: Kind, home: RelayHome, tmp_path: Path) -> None:
    relay = RelayProcess(home)
    target = Target(relay.url, home.api_key, home.certificate)
    driver = kind.start(target, tmp_path / "client")
    try:
        user = User(kind, home, driver)
        assert driver.version == kind.version
        assert {"authenticate", "execute_command"} <= set(driver.tools())
        assert is_locked(user.call("list_servers"))
        user.unlock(home.code())
        assert user.call("list_servers").structured["count"] == 1
        done = user.call("execute_command", server_id="web-1", command="echo $((6 * 7)); exit 3").structured
        assert (done["stdout"], done["exit_code"]) == ("42\n", 3)
        progress_is_reported(user)
        cancelling_ends_the_command(user, tmp_path / "pid")

        assert relay.stop() == 0
        relay = RelayProcess(home, "--port", str(relay.port))
        after = user.call("list_servers")
        if not kind.recovers:
            assert "session_not_found" in json.dumps(after.error), after
            driver.close()
            user.driver = driver = kind.start(target, tmp_path / "client")
            after = user.call("list_servers")
        assert is_locked(after), after
        user.unlock(home.code(steps=1))
        assert user.call("list_servers").structured["count"] == 1
    finally:
        driver.close()
        assert relay.stop() == 0


def progress_is_reported(user: User) -> None:
    script = "for i in 1 2 3 4; do echo line $i; sleep 0.3; done"
    number = user.begin("execute_command", progress=True, server_id="web-1", command=script)
    assert str(user.driver.event("progress")["message"]).startswith("line ")
    assert user.driver.answer(number).structured["exit_code"] == 0


def cancelling_ends_the_command(user: User, mark: Path) -> None:
    command = f"echo $$ > '{mark}.new'; mv '{mark}.new' '{mark}'; exec sleep 300"
    number = user.begin("execute_command", server_id="web-1", command=command)
    wait_until(mark.exists, 30, "the command runs")
    pid = int(mark.read_text())
    assert user.driver.answer(user.driver.order("cancel", call=number)).error is None
    assert user.driver.answer(number).error is not None
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 20, "the cancelled command has ended on its server")


@pytest.fixture
def registry() -> Iterator[Target]:
    """The fixtures of the conformance suites: among them a tool that announces a changed list of tools."""
    with serving("a-key-for-clients") as url:
        yield Target(url, "a-key-for-clients")


@each_kind
def test_what_a_server_sends_of_its_own_accord_reaches_a_client(kind: Kind, registry: Target, tmp_path: Path) -> None:
    with kind.start(registry, tmp_path / "client") as driver:
        assert driver.version == kind.version
        a_changed_list_is_announced(kind, driver)
        the_user_is_asked(kind, driver)
        a_stream_that_was_cut_off_is_resumed(driver)


def a_changed_list_is_announced(kind: Kind, driver: Driver) -> None:
    if kind.version == MODERN:
        assert driver.answer(driver.order("listen")).error is None
    assert "test_trigger_tool_change" in driver.tools()
    assert driver.call("test_trigger_tool_change", {}).error is None
    driver.event("changed", 20)


def the_user_is_asked(kind: Kind, driver: Driver) -> None:
    if kind.modern:
        assert driver.call("test_input_required_result_elicitation", {}).text == "Hello, Ann!"
    else:
        said = driver.call("test_elicitation", {"message": "Who are you?"}).text
        assert said.startswith("User response: action=accept") and '"username": "Ann"' in said


def a_stream_that_was_cut_off_is_resumed(driver: Driver) -> None:
    """Only the version 2025-11-25 has that; with others the server does not cut it off."""
    assert driver.call("test_reconnection", {}).text == "Reconnection test completed successfully."


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.mode == "auto"], ids=str)
def test_a_client_of_both_eras_goes_back_to_initialize_where_the_modern_one_is_switched_off(
    kind: Kind, tmp_path: Path
) -> None:
    with serving("a-key-for-clients", modern=False) as url:
        with kind.start(Target(url, "a-key-for-clients"), tmp_path / "client") as driver:
            assert driver.version == LEGACY
            assert driver.call("test_simple_text", {}).text == "This is a simple text response for testing."


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.program == "mcp-remote"], ids=str)
def test_mcp_remote_with_a_wrong_key_ends_and_says_why(kind: Kind, registry: Target, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Dynamic Client Registration rejected"):
        kind.start(Target(registry.url, "a-wrong-key"), tmp_path / "client")
