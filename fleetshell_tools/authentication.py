"""The `authenticate` tool, which unlocks every other one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fleetshell_tools.core.context import Context
from fleetshell_tools.core.tool import Output, tool


@dataclass(frozen=True)
class Authenticated(Output):
    authenticated: bool
    expires_in: int | None
    notice: str | None = None

    def text(self) -> str:
        if self.expires_in is None:
            return self.notice or ""
        return f"Successfully authenticated. Session valid for {duration(self.expires_in)}."


def duration(seconds: int) -> str:
    """Seconds in the largest unit that says them whole: `1 hour`, `90 minutes`, `45 seconds`."""
    for size, name in ((3600, "hour"), (60, "minute"), (1, "second")):
        if seconds % size == 0 and seconds >= size:
            count = seconds // size
            return f"{count} {name}{'s' if count != 1 else ''}"
    return f"{seconds} seconds"


@tool(title="Authenticate with a TOTP code", idempotent=True, open_world=False, needs_grant=False)
def authenticate(
    ctx: Context,
    code: Annotated[str, "The six digits that the user's authenticator app shows now; ask the user for them"],
) -> Authenticated:
    """Unlock the other tools with a TOTP code. Ask the user for a fresh code; never guess or reuse one."""
    grant = ctx.auth.authenticate(ctx.caller, ctx.session_id, code)
    if not grant.needed:
        return Authenticated(True, None, "No authentication is needed: MFA is disabled on this relay.")
    return Authenticated(True, grant.expires_in)
