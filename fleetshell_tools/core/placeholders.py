"""Placeholders in a prompt: `{name}` stands for an argument, and nothing else in the text means anything.

One pass without expressions; a value is never looked into. A brace is literal where no name follows it: `{}`, `{"a": 1}`,
`{{.Names}}` stay as they are, and so does a shell's `${HOME}`. `{{` before a name is a literal brace: `{{name}}` is `{name}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.words import nearest

LONGEST_RESULT = 262_144
"""Characters of a rendered prompt: a short text may repeat a placeholder very often."""

_NAME = r"[A-Za-z_][A-Za-z0-9_-]{0,63}"
_TOKEN = re.compile(
    rf"\$\{{{_NAME}\}}"  # a shell's variable
    rf"|\{{\{{\{{(?P<braced>{_NAME})\}}\}}\}}"  # a value in literal braces
    rf"|\{{\{{(?P<literal>{_NAME})\}}\}}?"
    rf"|\{{(?P<name>{_NAME})\}}"
)


def arguments(content: str) -> list[str]:
    """The names that a text has placeholders for, in the order in which they first appear."""
    found = (match["name"] or match["braced"] for match in _TOKEN.finditer(content))
    return list(dict.fromkeys(name for name in found if name))


def render(content: str, values: Mapping[str, str]) -> str:
    """Put the values in place of their placeholders; without any value the text comes back as it is.

    Raises:
        BadArgument: A missing or an unknown argument, named together with all that there are; the result is too long.
    """
    names = arguments(content)
    listed = f"Its arguments: {', '.join(names) or 'none'}."
    for given in values:
        if given not in names:
            raise BadArgument(f'The prompt has no argument "{given[:80]}".{nearest(given, names)} {listed}')
    missing = [name for name in names if name not in values]
    if missing:
        raise BadArgument(f"The prompt needs a value for {', '.join(f'`{name}`' for name in missing)}. {listed}")
    if not values:
        return content
    pieces: list[str] = []
    end = size = 0
    for match in _TOKEN.finditer(content):
        piece = _piece(match, values)
        size += match.start() - end + len(piece)
        if size > LONGEST_RESULT:
            break
        pieces += [content[end : match.start()], piece]
        end = match.end()
    if size + len(content) - end > LONGEST_RESULT:
        raise BadArgument(
            f"The prompt would be longer than {LONGEST_RESULT:,} characters with these values; give shorter ones."
        )
    return "".join([*pieces, content[end:]])


def _piece(match: re.Match[str], values: Mapping[str, str]) -> str:
    if match["name"]:
        return values[match["name"]]
    if match["braced"]:
        return f"{{{values[match['braced']]}}}"
    return f"{{{match['literal']}}}" if match["literal"] else match[0]
