"""What an operator wants to be asked about first."""

from __future__ import annotations

from fleetshell_tools.core.approvals import policy_verdict

ACT = "restarting nginx.service on web, which is marked critical,"


def test_what_is_allowed_goes_on() -> None:
    assert policy_verdict("allow", "security.restart_critical", ACT).allowed


def test_what_is_never_allowed_names_the_setting_and_no_approval_helps() -> None:
    verdict = policy_verdict("never", "security.restart_critical", ACT)
    assert not verdict.allowed and not verdict.approvable
    assert "does not allow restarting nginx.service on web" in verdict.reason
    assert "security.restart_critical: never" in verdict.reason


def test_what_needs_the_operator_can_be_approved() -> None:
    verdict = policy_verdict("approval", "security.restart_critical", ACT)
    assert not verdict.allowed and verdict.approvable
    assert verdict.reason.startswith("Restarting nginx.service on web")
    assert "security.restart_critical: approval" in verdict.reason
