"""Approvals: what one is bound to, that it is good once and for ten minutes, and what the caller is told."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field, replace

import pytest

from fleetshell_tools.core.approval_store import LIFETIME, MOST, MOST_OF_ONE, SHOWN_STDIN, ApprovalStore, Request
from fleetshell_tools.core.errors import NotFound
from fleetshell_tools.core.types import ALLOWED, Act, Caller, Principal, Verdict

ME = Caller(Principal("mykey"), client="test 1", session="s", tool="execute_command")
REBOOT = Act("sudo reboot")
ASK = Verdict(False, "power", "reboot", "Blocked (power).", ("reboot",), approvable=True)
NEVER = replace(ASK, kind="device", approvable=False)


@dataclass
class Desk:
    """A store whose clock the test moves, and one call that it changes bit by bit."""

    now: float = 1000.0
    store: ApprovalStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = ApprovalStore(lambda: self.now)

    def call(
        self,
        approval_id: str | None = None,
        *,
        caller: Caller = ME,
        verdict: Verdict = ASK,
        servers: tuple[str, ...] = ("web-1",),
        act: Act = REBOOT,
        state: tuple[str, ...] = (),
        session: str = "",
        typed: bool = False,
    ) -> Verdict:
        return self.store.decide(
            caller, verdict, approval_id, lambda: Request(servers, act, verdict, state, session, typed)
        )

    def approved(self) -> str:
        asked = self.call().approval
        self.store.approve(asked)
        return asked


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_what_needs_no_approval_asks_for_none(desk: Desk) -> None:
    assert desk.call(verdict=ALLOWED) is ALLOWED
    assert desk.call(verdict=NEVER) is NEVER
    assert desk.store.listed() == []


def test_a_blocked_call_is_told_the_id_and_what_the_operator_does(desk: Desk) -> None:
    verdict = desk.call()
    assert not verdict.allowed and re.fullmatch(r"apr_[0-9a-f]{10}", verdict.approval)
    assert verdict.reason.startswith("Blocked (power). The operator can let this one call through")
    assert f"`fleetshell approve {verdict.approval}`" in verdict.reason
    assert f'with approval_id "{verdict.approval}"' in verdict.reason
    assert desk.call().approval == verdict.approval, "the same call asked again is the same question"


def test_an_approved_call_runs_once(desk: Desk) -> None:
    asked = desk.approved()
    assert "has approved this very call" in desk.call().reason
    passed = desk.call(asked)
    assert passed.allowed and passed.approval == asked and passed.word == "approved:power:reboot"
    again = desk.call(asked)
    assert not again.allowed and again.approval != asked and "it was used" in again.reason


@pytest.mark.parametrize(
    "change",
    [
        {"caller": replace(ME, principal=Principal("another"))},
        {"caller": replace(ME, tool="multi_server_execute")},
        {"servers": ("web-2",)},
        {"servers": ("web-1", "web-2")},
        {"act": Act("sudo reboot ")},
        {"act": Act("sudo reboot", stdin=b"")},
        {"act": Act("sudo reboot", stdin=b"x")},
        {"act": Act("sudo reboot", environment={"A": "1"})},
        {"act": Act("sudo reboot", working_directory="/tmp")},
        {"act": Act("sudo reboot", login_user="root")},
        {"state": ("web-1 is elsewhere now",)},
        {"session": "sess_1"},
        {"typed": True},
        {"verdict": ALLOWED, "act": Act("true")},
        {"verdict": NEVER},
    ],
)
def test_a_call_that_differs_in_anything_is_refused_and_the_approval_stays(
    desk: Desk, change: dict[str, object]
) -> None:
    asked = desk.approved()
    refused = desk.call(asked, **change)  # type: ignore[arg-type]
    assert not refused.allowed and refused.approval != asked
    assert desk.call(asked).allowed


def test_another_client_of_the_same_key_may_make_the_approved_call(desk: Desk) -> None:
    assert desk.call(desk.approved(), caller=replace(ME, session="other", client="other")).allowed


def test_the_order_of_servers_does_not_matter(desk: Desk) -> None:
    asked = desk.call(servers=("a", "b")).approval
    desk.store.approve(asked)
    assert desk.call(asked, servers=("b", "a")).allowed


def test_what_was_not_approved_yet_or_never_existed_does_not_run(desk: Desk) -> None:
    asked = desk.call().approval
    early = desk.call(asked)
    assert not early.allowed and early.approval == asked and early.reason.startswith("The operator has not approved")
    made_up = desk.call("apr_0000000000")
    assert not made_up.allowed and made_up.reason.startswith("The approval_id given is not one for this call")


def test_a_question_and_an_approval_last_ten_minutes_each(desk: Desk) -> None:
    asked = desk.call().approval
    desk.now += LIFETIME - 1
    desk.store.approve(asked)
    desk.now += LIFETIME - 1
    assert desk.call(asked).allowed
    asked = desk.approved()
    desk.now += LIFETIME
    assert not desk.call(asked).allowed
    asked = desk.call().approval
    desk.now += LIFETIME
    with pytest.raises(NotFound, match=asked):
        desk.store.approve(asked)


def test_one_key_cannot_push_out_the_questions_of_another_and_what_is_approved_stays(desk: Desk) -> None:
    theirs = desk.call(caller=replace(ME, principal=Principal("other"))).approval
    mine = desk.approved()
    for number in range(MOST_OF_ONE * 2):
        desk.call(act=Act(f"reboot {number}"))
    kept = [entry["id"] for entry in desk.store.listed()]
    assert len(kept) == MOST_OF_ONE + 1 and theirs in kept and mine in kept
    for number in range(MOST * 2):
        desk.call(caller=replace(ME, principal=Principal(f"key{number}")))
    assert len(desk.store.listed()) == MOST


def test_of_many_that_make_the_approved_call_at_once_one_gets_through(desk: Desk) -> None:
    asked, passed, go = desk.approved(), [], threading.Barrier(16)

    def run() -> None:
        go.wait()
        passed.append(desk.call(asked).allowed)

    threads = [threading.Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed.count(True) == 1


def test_the_operator_is_shown_everything_and_memory_stays_bounded(desk: Desk) -> None:
    act = Act(
        "sh", stdin=b"reboot\n" + b"#" * 100_000, environment={"A": "x" * 5000, "B": "1"}, working_directory="/srv"
    )
    desk.call(act=act)
    (entry,) = desk.store.listed()
    assert (entry["principal"], entry["tool"], entry["client"]) == ("mykey", "execute_command", "test 1")
    assert (entry["server_ids"], entry["command"], entry["class"], entry["rule"]) == (
        ["web-1"],
        "sh",
        "power",
        "reboot",
    )
    assert (
        entry["stdin"].startswith("reboot\n") and len(entry["stdin"]) == SHOWN_STDIN and entry["stdin_bytes"] == 100_007
    )
    assert (
        entry["environment"]["B"] == "1" and len(entry["environment"]["A"]) == 1000 and not entry["environment_whole"]
    )
    assert (entry["working_directory"], entry["resolved"], entry["approved"]) == ("/srv", ["reboot"], False)


def test_after_a_clear_nothing_is_approved(desk: Desk) -> None:
    asked = desk.approved()
    desk.store.clear()
    assert not desk.call(asked).allowed
