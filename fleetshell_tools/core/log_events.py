"""Lines of a log joined to events: a traceback of Python, Java, Go, PHP or Node.js is one, keyed by what was raised."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fleetshell_tools.core import log_levels
from fleetshell_tools.core.log_formats import LONGEST_LINE, Entry

OPEN = 16
"""Processes whose lines may be interleaved; the event of the one that was silent longest is ended first."""

_RAISED = 300
_TRACEBACK = re.compile(r"\s*(?:\+ (?:Exception Group )?)?Traceback \(most recent call last\):")
_CHAINED = re.compile(r"During handling of the above exception|The above exception was the direct cause")
_PLACE = re.compile(r'\s+File "([^"]{1,300})", line (\d+)(?:, in (\S{1,100}))?')
_JAVA_RAISED = re.compile(
    r"(?:Exception in thread \"[^\"]*\" )?(?:[A-Za-z_$][\w$]*\.)+[\w$]*(?:Exception|Error|Throwable|Failure)\b(?:: |$)"
)
_JAVA_FRAME = re.compile(r"\s+at [\w.$<>/@-]+\(|\s*\.\.\. \d+ (?:more|common frames)")
_JAVA_CAUSE = re.compile(r"\s*Caused by: (.*)")
_GOROUTINE = re.compile(r"goroutine \d+ .*\[.*\]:|\[signal SIG")
_TAIL = re.compile(r"#\d+ |Stack trace:|[}\])]+[,;]?$|thrown in |exit status \d")


@dataclass(slots=True)
class _Open:
    """An event whose end was not seen yet.

    Attributes:
        kind: `python`, `java` or `go` once it is known to be a traceback.
        raised: The last line of a Python traceback, or the line of a Java exception.
        cause: What a Java exception was caused by, the deepest.
        inside: Whether the next line of a Python traceback may be the one that says what was raised.
        alone: It began with the traceback, without a line of its own before.
    """

    entry: Entry
    kind: str = ""
    raised: str = ""
    cause: str = ""
    place: str = ""
    inside: bool = False
    alone: bool = False


def events(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Join what belongs together, in one pass and with at most `OPEN` events in memory.

    A line without the head that lines of its log have goes with the line before where it is indented or looks like a part of a
    traceback; a line with a head only where its process is in the middle of one (syslog and the journal take line by line).
    """
    pending: dict[str, _Open] = {}
    recent: _Open | None = None
    for entry in entries:
        head, *more = entry.message.split("\n") if entry.headed else [entry.raw]
        before = pending.get(entry.source) if entry.headed else recent
        if before is not None and _goes_on(before, head, entry.headed):
            for text in more:
                _goes_on(before, text, False)
            before.entry.lines += 1
            continue
        if entry.headed or recent is None:
            ended = pending.pop(entry.source, None)
        else:
            ended = pending.pop(recent.entry.source, None)
            entry.source = recent.entry.source
        if ended is not None:
            yield _closed(ended)
        if len(pending) >= OPEN:
            yield _closed(pending.pop(next(iter(pending))))
        recent = _begun(entry, head)
        for text in more:
            if text.strip():
                _goes_on(recent, text, False)
        pending[entry.source] = recent
    for left in pending.values():
        yield _closed(left)


def _begun(entry: Entry, head: str) -> _Open:
    entry.message = head
    if _TRACEBACK.match(head):
        return _Open(entry, "python", inside=True, alone=True)
    if _JAVA_RAISED.match(head) and not entry.headed:
        return _Open(entry, "java", raised=head, alone=True)
    return _Open(entry)


def _goes_on(event: _Open, text: str, headed: bool) -> bool:
    """Take a line into an event; False where it begins another."""
    indented = text[:1] in (" ", "\t")
    if _TRACEBACK.match(text):
        if event.kind == "python" and event.raised:
            return False
        told = event.entry.level in log_levels.ERRORS or (
            event.entry.level == "warning" and event.entry.headed and not headed
        )
        if event.kind != "python" and (event.entry.whole or not told):
            return False
        event.kind, event.inside = "python", True
        return True
    if event.kind == "python":
        return _python(event, text, headed, indented)
    if event.entry.whole:
        return False
    if _JAVA_FRAME.match(text) and (not headed or event.kind == "java" or event.entry.level in log_levels.ERRORS):
        event.kind = "java"
        return True
    cause = _JAVA_CAUSE.match(text)
    if cause and (event.kind == "java" or not headed):
        event.kind, event.cause = "java", cause[1]
        return True
    if headed:
        return event.kind == "go" or (event.kind == "java" and indented)
    if _GOROUTINE.match(text):
        event.kind = "go"
        return True
    if event.entry.headed and not event.raised and _JAVA_RAISED.match(text):
        event.kind, event.raised = "java", text
        return True
    return indented or event.kind == "go" or (event.entry.headed and _TAIL.match(text) is not None)


def _python(event: _Open, text: str, headed: bool, indented: bool) -> bool:
    if event.inside:
        if indented or text.startswith("|"):
            place = _PLACE.match(text)
            if place:
                event.place = f"{place[1]}:{place[2]}" + (f" in {place[3]}" if place[3] else "")
        else:
            event.raised, event.inside = text, False
        return True
    if _CHAINED.match(text):
        event.raised = ""
        return True
    # Messages of exceptions have more lines at times; only where lines have heads can these be told from the next event.
    return indented or (not headed and event.entry.headed)


def _closed(event: _Open) -> Entry:
    entry = event.entry
    if not event.kind:
        return entry
    head = "" if event.alone else entry.message
    if event.kind == "go":
        entry.message = head or entry.message
        return entry
    said = event.raised or entry.message
    cause = f" (caused by {event.cause})" if event.cause else ""
    if event.kind == "java" and not event.raised and not event.cause:
        said = entry.message
    entry.message = said[:_RAISED] + cause[:_RAISED]
    if entry.level not in log_levels.ERRORS and entry.level != "warning":
        entry.level = "error"
    shown = [part for part in (head if head != said else "", event.place, entry.message) if part]
    entry.raw = " | ".join(shown)[:LONGEST_LINE]
    return entry
