"""What carries the TOTP grant of a modern client, which has no session: a cookie, a `_meta` key, a tool argument.

The handle in them is worth nothing without the API key that it was minted for. It is a secret all the same: it is
taken out of the parameters here, before anything logs them or passes them on.
"""

from __future__ import annotations

import re
from typing import Any

from fleetshell_tools.relay.exchange import HttpRequest

SECURE_COOKIE = "__Host-fleetshell"
PLAIN_COOKIE = "fleetshell"
META_KEY = "dev.fleetshell/session"
ARGUMENT = "fleetshell_session"
MOST_COOKIES = 2
MOST_HANDLES = 4

_SHAPE = re.compile(r"[A-Za-z0-9_-]{20,200}")


def is_handle(value: object) -> bool:
    """Whether something has the shape of a handle: 20 to 200 characters that are safe in URLs."""
    return isinstance(value, str) and _SHAPE.fullmatch(value) is not None


def take(params: dict[str, Any]) -> list[str]:
    """Take what carries a handle out of a request's parameters; returns the well-formed ones, `_meta` before the argument."""
    found = []
    for inner, key in ((params.get("_meta"), META_KEY), (params.get("arguments"), ARGUMENT)):
        value = inner.pop(key, None) if isinstance(inner, dict) else None
        if isinstance(value, str) and is_handle(value):
            found.append(value)
    return found


def handles(http: HttpRequest, params: dict[str, Any], secure: bool) -> tuple[str, ...]:
    """Every handle of a request, the cookie's first: the model never sees that one. `params` loses theirs.

    Args:
        secure: The relay serves TLS, so that its cookie has the name that only the same host can set.
    """
    found = _cookies(http, SECURE_COOKIE if secure else PLAIN_COOKIE) + take(params)
    return tuple(dict.fromkeys(found))[:MOST_HANDLES]


def set_cookie(handle: str, seconds: int, secure: bool) -> tuple[str, str]:
    """The header that has a client keep a handle (RFC 6265bis: the prefix `__Host-` wants Secure and the path /).

    Without TLS a Secure cookie would never come back.

    Raises:
        ValueError: The handle has not the shape of one.
    """
    if not is_handle(handle):
        raise ValueError("a handle has 20 to 200 characters, each a letter, a digit, `_` or `-`")
    name, flag = (SECURE_COOKIE, " Secure;") if secure else (PLAIN_COOKIE, "")
    return ("Set-Cookie", f"{name}={handle};{flag} HttpOnly; SameSite=Strict; Path=/; Max-Age={seconds}")


def _cookies(http: HttpRequest, name: str) -> list[str]:
    found: list[str] = []
    for header in http.values("Cookie"):
        for pair in header.split(";"):
            key, _, value = pair.strip(" \t").partition("=")
            if key == name and is_handle(value) and len(found) < MOST_COOKIES:
                found.append(value)
    return found
