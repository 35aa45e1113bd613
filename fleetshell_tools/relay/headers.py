"""The headers that a 2026-07-28 request repeats its own parts in, so that a proxy can route it without reading the body.

A proxy that decides by the header and a server that works on the body must not be told different things: whatever
is missing, stands twice or differs is refused with -32020 (specification: "Transports", standard and custom headers).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fleetshell_tools.core.text import one_line
from fleetshell_tools.relay import eras
from fleetshell_tools.relay.exchange import HttpRequest
from fleetshell_tools.relay.jsonrpc import HEADER_MISMATCH, Rejection, Request
from fleetshell_tools.relay.params import NAMED_BY

VERSION_HEADER = "MCP-Protocol-Version"
METHOD_HEADER = "Mcp-Method"
NAME_HEADER = "Mcp-Name"
PARAMETER_PREFIX = "Mcp-Param-"
ANNOTATION = "x-mcp-header"

_SHOWN = 80
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DECIMAL = re.compile(r"-?[0-9]{1,1000}(\.0+)?")
_TYPES = ("string", "integer", "boolean")


@dataclass(frozen=True)
class ParameterHeader:
    """A property of a tool's arguments that a client repeats in a header; `path` leads there through objects."""

    header: str
    path: tuple[str, ...]


def annotated(schema: Mapping[str, Any]) -> tuple[ParameterHeader, ...]:
    """The `x-mcp-header` annotations of a tool's input schema.

    Raises:
        ValueError: One that a client would drop the tool for: no header name, not on a string, an integer or a
            boolean, or a name that stands twice.
    """
    found = tuple(_annotated(schema, ()))
    names = {parameter.header.lower() for parameter in found}
    if len(names) != len(found):
        raise ValueError(f"two properties have the same {ANNOTATION}")
    return found


def _annotated(schema: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[ParameterHeader]:
    for name, inner in schema.get("properties", {}).items():
        if not isinstance(inner, dict):
            continue
        if ANNOTATION in inner:
            token = inner[ANNOTATION]
            if not (isinstance(token, str) and _TOKEN.fullmatch(token) and inner.get("type") in _TYPES):
                raise ValueError(f"the {ANNOTATION} of property {name!r} can be no header: {token!r}")
            yield ParameterHeader(PARAMETER_PREFIX + token, (*path, name))
        yield from _annotated(inner, (*path, name))


def check(http: HttpRequest, request: Request, version: str) -> None:
    """Compare the standard headers of a request with its body.

    Args:
        version: What the body names as the protocol version.

    Raises:
        Rejection: -32020.
    """
    said = _single(http, VERSION_HEADER)
    if said != version:
        raise eras.mismatch(f"the {VERSION_HEADER} header says {one_line(said or '', 40)!r}", version)
    if _single(http, METHOD_HEADER) != request.method:
        raise _differs(METHOD_HEADER, "the method")
    parameter = NAMED_BY.get(request.method)
    name = request.params.get(parameter) if parameter else None
    # Where the body has no name there is nothing to compare with: that is an error of the parameters.
    if isinstance(name, str) and decoded(_single(http, NAME_HEADER)) != name:
        raise _differs(NAME_HEADER, f"`params.{parameter}`")


def check_parameters(http: HttpRequest, arguments: Mapping[str, Any], annotations: tuple[ParameterHeader, ...]) -> None:
    """Compare the headers of annotated arguments with the arguments: both there and equal, or both absent.

    Raises:
        Rejection: -32020.
    """
    for annotation in annotations:
        value = _at(arguments, annotation.path)
        values = http.values(annotation.header)
        if value is None and not values:
            continue
        said = decoded(_single(http, annotation.header))
        if value is None or said is None or not _equal(value, said):
            raise _differs(annotation.header, f"the argument {'.'.join(annotation.path)!r}")


def decoded(value: str | None) -> str | None:
    """A header's value, taken out of `=?base64?…?=` where it stands in that; None where that is not well-formed."""
    if value is None or not (value.startswith("=?base64?") and value.endswith("?=") and len(value) >= 11):
        return value
    payload = value[9:-2]
    try:
        raw = base64.b64decode(payload, validate=True)
        # Several payloads could stand for one value, and a proxy that compares them sees different ones.
        return raw.decode() if base64.b64encode(raw).decode() == payload else None
    except (binascii.Error, ValueError):
        return None


def _single(http: HttpRequest, name: str) -> str | None:
    values = http.values(name)
    if len(values) > 1:
        raise Rejection(HEADER_MISMATCH, f"The {name} header stands {len(values)} times; send it once.")
    return values[0] if values else None


def _differs(header: str, what: str) -> Rejection:
    return Rejection(
        HEADER_MISMATCH,
        f"The {one_line(header, _SHOWN)} header is missing, or is not what the body says; it must repeat {one_line(what, _SHOWN)}.",
    )


def _at(arguments: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = arguments
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _equal(value: object, said: str) -> bool:
    """Whether an argument is what a header says; numbers are compared as such, since 42 and 42.0 are one in JSON."""
    if isinstance(value, bool):
        return said == ("true" if value else "false")
    if isinstance(value, str):
        return said == value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return isinstance(value, int) and bool(_DECIMAL.fullmatch(said)) and int(said.partition(".")[0]) == value
