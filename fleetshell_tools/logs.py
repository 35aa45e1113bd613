"""Logs: `search_logs` finds lines, `tail_logs` shows the newest and what came after; of files, rotated ones, and journals."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fleetshell_tools.core import log_journal, log_search, log_source, log_tail
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.log_search import Found, Match, Query
from fleetshell_tools.core.log_source import Source
from fleetshell_tools.core.log_tail import Place, Tail
from fleetshell_tools.core.log_time import Clock, Since, Stamps, iso, parse_since
from fleetshell_tools.core.scripts import Ran, Script, sudo_refusal
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.tool import Output, Range, tool

RESERVED = 1500
"""Bytes of a result's budget that are for what is not lines."""
LOG_PATH = "File or glob; or give service"
SERVICE = "Of the server's context, or a systemd unit: its log file or journal"


@dataclass(frozen=True)
class LogMatches(Output):
    server_id: str
    source: str
    matches: list[dict[str, Any]]
    count: int
    count_is_exact: bool
    truncated: bool
    files: list[dict[str, Any]]
    skipped: list[dict[str, str]]
    notice: str | None = None

    def text(self) -> str:
        least = "" if self.count_is_exact else "at least "
        newest = f", the newest {len(self.matches)} shown" if self.truncated else ""
        lines = [
            f"{self.server_id}: {least}{self.count} {'match' if self.count == 1 else 'matches'} in {self.source}{newest}"
        ]
        if len(self.files) > 1:
            lines += [f"{item['count']} in {item['path']}" for item in self.files]
        file = None
        context = any("before" in match for match in self.matches)
        for match in self.matches:
            if match.get("file") != file:
                file = match["file"]
                lines.append(f"==> {file}")
            where = match.get("line_number", match.get("timestamp", ""))
            lines += [f"  {line}" for line in match.get("before", ())]
            lines.append(f"{where}: {match['line']}" if where else match["line"])
            lines += [f"  {line}" for line in match.get("after", ())]
            if context:
                lines.append("--")
        lines += [f"not searched: {item['path']}: {item['reason']}" for item in self.skipped]
        return "\n".join([*lines, *([self.notice] if self.notice else [])])


@dataclass(frozen=True)
class LogTail(Output):
    server_id: str
    source: str
    lines: list[str]
    partial: str | None
    cursor: str | None
    more: bool
    truncated: bool
    notice: str | None = None

    def text(self) -> str:
        lines = [f"{self.server_id}: {len(self.lines)} {'line' if len(self.lines) == 1 else 'lines'} of {self.source}"]
        lines += self.lines
        if self.partial is not None:
            lines.append(f"[not finished yet] {self.partial}")
        if self.cursor:
            lines.append(f"cursor: {self.cursor}")
        return "\n".join([*lines, *([self.notice] if self.notice else [])])


@tool(title="Search logs", read_only=True)
def search_logs(
    ctx: Context,
    server_id: Annotated[str, "The server's id"],
    pattern: Annotated[str, "Extended regular expression (grep -E)"],
    log_path: Annotated[str | None, LOG_PATH] = None,
    service: Annotated[str | None, SERVICE] = None,
    max_results: Annotated[int, "The newest so many", Range(1, 1000)] = 50,
    context_lines: Annotated[int, "Lines around each match", Range(0, 20)] = 0,
    ignore_case: Annotated[bool, "Upper case equals lower"] = False,
    since: Annotated[str | None, "ISO 8601, or how long ago: 90m, 2h, 3d; then rotated and .gz files too"] = None,
) -> LogMatches:
    """Search a log file, several, or a service's journal for lines that match. Shows the newest matches, counts all."""
    server = ctx.inventory.get(server_id)
    source = log_source.resolve(server, log_path, service)
    query, moment = Query(pattern, ignore_case, context_lines, max_results), parse_since(since)
    script = query.script(source.path or source.unit, (moment.kind, moment.seconds), journal=bool(source.unit))
    ran = _run(ctx, server, script, log_search.KEEP)
    if bad := log_search.bad_pattern(ran, pattern):
        raise bad
    search = _search_journal if source.unit else _search_files
    return search(ctx, server, source, query, moment, ran)


def _search_files(ctx: Context, server: Server, source: Source, query: Query, moment: Since, ran: Ran) -> LogMatches:
    clock = _clock(ran)
    since, stamps, files = moment.moment(clock), Stamps(clock), log_source.seen(ran)
    usable = [file for file in files if file.state == "ok"]
    if not usable and not any(file.state == "older" for file in files):
        raise log_source.nothing_to_read(source, server, files, ran)
    found = list(log_search.in_files(ran, usable, query, stamps, since))
    # The file written last comes last, as its lines do.
    mtimes = {file.path: file.mtime or 0 for file in files}
    found.sort(key=lambda item: mtimes[item.path])
    searched = {item.path for item in found}
    skipped = log_source.skipped(files, server, ran.facts)
    skipped += [
        {"path": file.path, "reason": f"not reached within {log_search.SECONDS} s or {log_search.BYTES >> 20} MiB"}
        for file in usable if file.path not in searched
    ]  # fmt: skip
    notices = [sudo_refusal(ran.stderr, "/usr/bin/tail", ran.facts)]
    for item in found:
        if item.from_byte > 1:
            notices.append(f"Of {item.path} only the last {log_search.BYTES >> 20} MiB were searched.")
        if item.ended_early:
            notices.append(
                f"The search of {item.path} was ended after {log_search.SECONDS} s; its end was not searched."
            )
    if since is not None:
        notices += _since_notices(since, found, sum(file.state == "older" for file in files))
    if more := ran.text("more").strip():
        notices.append(f"{more} more files match {source.label}; narrow it down.")
    about = [{"path": item.path, "count": item.count} for item in found]
    whole = len(searched) == len(usable) and not more and all(item.from_byte == 1 for item in found)
    return _answer(ctx, server, source.label, query, found, about, skipped, notices, whole=whole)


def _since_notices(since: float, found: list[Found], older: int) -> list[str]:
    notices = []
    if older:
        notices.append(f"{older} files last written before {iso(since)} were left out.")
    matches = [match for item in found for match in item.matches]
    if matches and all(match.time is None for match in matches):
        notices.append("These lines bear no time that we know, so `since` could not be applied to them.")
    elif undated := sum(item.undated for item in found):
        notices.append(f"{undated} of the matches bear no time and may be older than `since`.")
    return notices


def _search_journal(ctx: Context, server: Server, source: Source, query: Query, moment: Since, ran: Ran) -> LogMatches:
    _check_journal(ran, source, server)
    found = log_search.in_journal(ran, query, Stamps(_clock(ran)))
    if not found.count:
        _check_unit(ran, source, server)
    notices = [log_journal.hint(ran), sudo_refusal(ran.stderr, "/usr/bin/journalctl", ran.facts)]
    if "json" not in ran.parts and "^" in query.pattern:
        notices.append("Here `^` stands before an entry's time; match the start of its text with `]: ` before it.")
    if found.ended_early:
        part = "older" if "json" in ran.parts else "newer"
        notices.append(f"The search was ended after {log_search.SECONDS} s; the {part} entries were not searched.")
    return _answer(ctx, server, source.label, query, [found], [], [], notices)


def _answer(
    ctx: Context, server: Server, label: str, query: Query, found: list[Found], files: list[dict[str, Any]],
    skipped: list[dict[str, str]], notices: list[str], *, whole: bool = True,
) -> LogMatches:  # fmt: skip
    """The newest matches that fit, with honest numbers."""
    matches = [match for item in found for match in item.matches]
    count = sum(item.count for item in found)
    budget = ctx.config.security.max_output_bytes - RESERVED - _bytes([files[:20], skipped[:20], notices])
    shown = _newest(matches[-query.most :], budget, with_file=len(files) + len(skipped) > 1)
    if len(shown) < min(len(matches), query.most):
        notices.append(f"Only {len(shown)} matches fit into one answer; narrow the pattern or `since` to see others.")
    if len(skipped) > 20:
        notices.append(f"{len(skipped) - 20} more files were not searched.")
    exact = whole and all(item.exact and not item.ended_early for item in found)
    return LogMatches(
        server_id=server.id, source=label, matches=shown, count=count, count_is_exact=exact, truncated=len(shown) < count,
        files=files[:20], skipped=skipped[:20], notice=" ".join(filter(None, notices)) or None,
    )  # fmt: skip


def _newest(matches: list[Match], budget: int, *, with_file: bool) -> list[dict[str, Any]]:
    """As many as fit into the budget, the last first, but at least one."""
    items: list[dict[str, Any]] = []
    for match in reversed(matches):
        item = match.shown(with_file=with_file)
        budget -= _bytes(item) + 2
        if budget < 0 and items:
            break
        items.append(item)
    return items[::-1]


@tool(title="Show a log's end", read_only=True)
def tail_logs(
    ctx: Context,
    server_id: Annotated[str, "The server's id"],
    log_path: Annotated[str | None, LOG_PATH] = None,
    service: Annotated[str | None, SERVICE] = None,
    lines: Annotated[int, "Most lines", Range(1, 1000)] = 50,
    cursor: Annotated[str | None, "Of the last answer: shows what came after"] = None,
) -> LogTail:
    """Show the last lines of a log file or of a service's journal; with a cursor those that came after it, from the oldest on."""
    server = ctx.inventory.get(server_id)
    source = log_source.resolve(server, log_path, service)
    place = log_tail.read_cursor(cursor, server_id, source) if cursor else None
    budget = ctx.config.security.max_output_bytes - RESERVED
    if source.unit:
        return _tail_journal(ctx, server, source, lines, place, budget)
    ran = _run(ctx, server, log_tail.file_script(source.path, lines, place), log_tail.KEEP)
    files = log_source.seen(ran)
    if "place" not in ran.parts and "old" not in ran.parts:
        raise log_source.nothing_to_read(source, server, files, ran)
    # Of a glob it is the file that was written last, and its cursor belongs to that file.
    read = log_tail.path_of(ran)
    if read and read != f"./{source.path}":
        source = replace(source, path=read)
    tail = log_tail.end_of_file(ran, lines, budget) if place is None else log_tail.after(ran, place, lines, budget)
    return _tail(server, source, tail, [])


def _tail_journal(
    ctx: Context, server: Server, source: Source, lines: int, place: Place | None, budget: int
) -> LogTail:
    ran = _run(ctx, server, log_tail.journal_script(source.unit, lines, place), log_tail.KEEP)
    _check_journal(ran, source, server)
    if "Failed to seek to cursor" in ran.stderr:
        raise BadArgument(
            "The journal of this host does not know the cursor; leave it out to start at the journal's end."
        )
    tail = log_tail.of_journal(ran, place, lines, budget)
    if not tail.lines and place is None:
        _check_unit(ran, source, server)
    notices = [log_journal.hint(ran), sudo_refusal(ran.stderr, "/usr/bin/journalctl", ran.facts)]
    return _tail(server, source, tail, notices)


def _tail(server: Server, source: Source, tail: Tail, notices: list[str]) -> LogTail:
    notices = [*tail.notices, *notices]
    if tail.more:
        notices.append("There is more: ask again with the cursor.")
    elif tail.cut:
        notices.append("Older lines were left out: one answer holds no more.")
    return LogTail(
        server_id=server.id, source=source.label, lines=tail.lines, partial=tail.partial or None,
        cursor=tail.place.cursor(server.id, source) if tail.place else None, more=bool(tail.more), truncated=tail.cut or bool(tail.more),
        notice=" ".join(filter(None, notices)) or None,
    )  # fmt: skip


def _run(ctx: Context, server: Server, script: Script, keep: int) -> Ran:
    limit = ctx.config.security.command_timeout
    return ctx.fleet.run_script(ctx.caller, server, script, timeout=limit, cancelled=ctx.cancelled, keep=keep)


def _clock(ran: Ran) -> Clock:
    clock = Clock.read(ran.text("clock"))
    if clock is None:
        raise BadArgument(
            f"The host's `date '+%s %z'` says {one_line(ran.text('clock'), 60)!r}; its logs can't be read."
        )
    return clock


def _check_journal(ran: Ran, source: Source, server: Server) -> None:
    if "none" in ran.parts:
        raise log_source.no_journal(source, server)


def _check_unit(ran: Ran, source: Source, server: Server) -> None:
    """Without entries: whether there is such a unit at all."""
    if "missing" in ran.fields("unit"):
        raise log_source.no_such_unit(source, server)


def _bytes(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
