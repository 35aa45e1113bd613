"""What an operator wants to be asked about first."""

from __future__ import annotations

import pytest

from fleetshell_tools.core import approvals
from fleetshell_tools.core.errors import Refused

ACT = "restarting nginx.service on web, which is marked critical,"


def test_what_is_allowed_goes_on() -> None:
    approvals.require("allow", "security.restart_critical", ACT, None)


@pytest.mark.parametrize(
    ("policy", "given", "words"),
    [
        ("never", None, "does not allow restarting nginx.service on web"),
        ("approval", None, "^Restarting nginx.service .* needs the operator .*fleetshell reload"),
        ("approval", "a-1", "approval_id given is not valid"),
    ],
)
def test_what_is_not_allowed_is_refused_with_the_setting_and_the_next_step(
    policy: str, given: str | None, words: str
) -> None:
    with pytest.raises(Refused, match=words) as caught:
        approvals.require(policy, "security.restart_critical", ACT, given)
    assert f"security.restart_critical: {policy}" in str(caught.value)
