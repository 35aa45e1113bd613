"""Acts that an operator wants to be asked about first: the one place where a tool finds out whether it may go on."""

from __future__ import annotations

from fleetshell_tools.core.errors import Refused

ALLOW, APPROVAL, NEVER = "allow", "approval", "never"


def require(policy: str, setting: str, act: str, approval_id: str | None) -> None:
    """Let an act go on, or refuse it.

    Args:
        policy: `allow`, `approval` or `never`, as the operator has set it.
        setting: The key of config.yaml that says so.
        act: What is to be done, and why it is asked about: `restarting nginx.service on web, which is marked critical`.
        approval_id: What the caller gave. There are no approvals yet, so none is valid.

    Raises:
        Refused: It may not be done.
    """
    if policy == ALLOW:
        return
    if policy == NEVER:
        raise Refused(
            f"The operator does not allow {act} ({setting}: never). Tell the operator what you found and why it is needed."
        )
    given = "The approval_id given is not valid. " if approval_id else ""
    raise Refused(
        f"{given}{act[0].upper()}{act[1:]} needs the operator ({setting}: {policy}). Ask the operator to do it, "
        f"or to change that setting in config.yaml and run `fleetshell reload`."
    )
