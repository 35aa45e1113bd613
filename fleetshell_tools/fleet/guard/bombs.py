"""Loops that start processes without end: fork bombs that are no functions."""

from __future__ import annotations

from fleetshell_tools.fleet.guard.lexer import Arithmetic
from fleetshell_tools.fleet.guard.parser import Block, Command, Loop, Pipeline, Simple, While

_WAITING = ("wait", "sleep", "read", "usleep", "inotifywait", "nc")


def endless_input(commands: list[Command]) -> bool:
    """`yes | while read x; do … & done`"""
    first, last = commands[0], commands[-1]
    endless = isinstance(first, Simple) and bool(first.words) and first.words[0].plain == "yes"
    return endless and isinstance(last, While) and _backgrounds(last.body)


def _backgrounds(block: Block) -> bool:
    return any(
        (isinstance(node, Pipeline) and node.background) or (isinstance(node, Block) and _backgrounds(node))
        for node in block.commands
    )


def bombs(loop: While) -> bool:
    """A loop without a condition that starts something in the background and waits for nothing."""
    condition = loop.body.commands[0] if loop.body.commands else None
    if (
        not isinstance(condition, Simple)
        or not condition.words
        or condition.words[0].plain not in ("true", ":", "false")
    ):
        return False
    return _starts(loop.body.commands[1:])


def endless_loop(loop: Loop) -> bool:
    """`for ((;;))`"""
    parts = [part for word in loop.words or () for part in word.parts]
    conditions = [part.inside.plain or "" for part in parts if isinstance(part, Arithmetic)]
    return any("".join(text.split()) == ";;" for text in conditions) and _starts(loop.body.commands)


def _starts(body: list[Command]) -> bool:
    waits = any(isinstance(node, Simple) and node.words and node.words[0].plain in _WAITING for node in body)
    return not waits and any(isinstance(node, Pipeline) and node.background for node in body)
