"""Acts that an operator wants to be asked about first, whatever the guard says of them."""

from __future__ import annotations

from fleetshell_tools.core.types import ALLOWED, Verdict

ALLOW, APPROVAL, NEVER = "allow", "approval", "never"
KIND = "critical"


def policy_verdict(policy: str, setting: str, act: str) -> Verdict:
    """What an operator's policy makes of an act.

    Args:
        policy: `allow`, `approval` or `never`, as the operator has set it.
        setting: The key of config.yaml that says so.
        act: What is to be done, and why it is asked about: `restarting nginx.service on web, which is marked critical,`.
    """
    if policy == ALLOW:
        return ALLOWED
    if policy == NEVER:
        return Verdict(
            False, KIND, setting,
            f"The operator does not allow {act} ({setting}: never). Tell the operator what you found and why it is needed.",
        )  # fmt: skip
    return Verdict(
        False, KIND, setting, f"{act[0].upper()}{act[1:]} needs the operator ({setting}: {policy}).", approvable=True
    )
