"""The policies that an act passes: the server's and the person's, of which the stricter one holds."""

from __future__ import annotations

import pytest

from fleetshell_tools.core.config import DANGEROUS_DEFAULTS
from fleetshell_tools.core.types import Act, Caller, Principal
from fleetshell_tools.fleet.guard import Guard
from fleetshell_tools.fleet.policies import judge

READ, WRITE, LISTED, DESTROY = "cat /etc/hostname", "touch /srv/x", "systemctl restart nginx", "rm -rf /"


@pytest.mark.parametrize(
    ("server", "person", "allowed"),
    [
        ("normal", "normal", {READ, WRITE, LISTED}),
        ("read_only", "normal", {READ}),
        ("normal", "read_only", {READ}),
        ("read_only", "read_only", {READ}),
        ("allow_list", "normal", {LISTED}),
        ("allow_list", "read_only", set()),
        ("from_tomorrow", "normal", set()),
        ("normal", "from_tomorrow", set()),
    ],
)
def test_the_stricter_of_both_policies_holds_and_an_unknown_one_allows_nothing(
    server: str, person: str, allowed: set[str]
) -> None:
    guard = Guard(DANGEROUS_DEFAULTS)
    listed = (LISTED,) if server == "allow_list" else ()
    who = Caller(Principal("k", "anna", policy=person))
    for command in (READ, WRITE, LISTED, DESTROY):
        verdict = judge(guard, who, Act(command, policy=server, allowed=listed))
        assert verdict.allowed == (command in allowed), (command, verdict)
        if not verdict.allowed and command != DESTROY:
            assert verdict.kind == "policy" and not verdict.approvable, "no approval leads around a policy"


def test_a_refusal_by_a_persons_own_policy_says_whose_it_is() -> None:
    verdict = judge(Guard(DANGEROUS_DEFAULTS), Caller(Principal("k", "anna", policy="read_only")), Act(WRITE))
    assert verdict.reason.endswith("`read_only` is the policy of anna on every server.")
