"""What a log says as a whole: `analyze_logs` counts its events by level and groups them by template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fleetshell_tools.core import log_analysis, log_journal, log_sampling, log_source
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.log_analysis import Analysis, span
from fleetshell_tools.core.log_levels import LEVELS
from fleetshell_tools.core.log_sampling import Reading
from fleetshell_tools.core.log_source import Seen, Source
from fleetshell_tools.core.log_time import Clock, Since, iso, parse_since
from fleetshell_tools.core.scripts import Ran, sudo_refusal
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.tool import Output, Range, tool

_ASKED = {"errors": "errors", "warnings": "warnings", "summary": "events"}


@dataclass(frozen=True)
class LogAnalysis(Output):
    server_id: str
    source: str
    analysis_type: str
    totals: dict[str, int]
    groups: list[dict[str, Any]]
    group_count: int
    other_count: int
    lines: int
    window: dict[str, Any]
    sampled: bool
    truncated: bool
    status: dict[str, int]
    skipped: list[dict[str, str]]
    notice: str | None = None

    def text(self) -> str:
        about = "about " if self.sampled else ""
        lines = [f"{self.server_id}: {self.source}: {about}{self.lines:,} lines{_when(self.window)}"]
        lines.append(
            ", ".join(f"{self.totals[level]:,} {level}" for level in LEVELS if level in self.totals) or "No events."
        )
        if self.status:
            requests = sum(self.status.values())
            seconds = self.window["seconds"]
            rate = f" ({requests / seconds * 60:,.1f} a minute)" if seconds else ""
            lines.append(
                f"{requests:,} requests{rate}: " + ", ".join(f"{count:,} {name}" for name, count in self.status.items())
            )
        if self.totals and not self.groups:
            lines.append(f"No {_ASKED[self.analysis_type]}.")
        if self.window["compared_with"]:
            lines.append(f"Change of rate: against {self.window['compared_with']}.")
        for group in self.groups:
            lines += _told(group, self.window)
        if self.other_count:
            lines.append(f"{self.other_count:>6,} more in other groups ({self.group_count} groups in all)")
        lines += [f"not read: {item['path']}: {item['reason']}" for item in self.skipped]
        return "\n".join([*lines, *([self.notice] if self.notice else [])])


def _when(window: dict[str, Any]) -> str:
    if window["from"] is None:
        return ""
    return f", {window['from']} to {window['to']} ({span(window['seconds'])})"


def _told(group: dict[str, Any], window: dict[str, Any]) -> list[str]:
    """A group in one line, and a sample where that says more than the template."""
    first, last = (_short(group[key], window) for key in ("first_seen", "last_seen"))
    seen = f"{first} to {last}" if first != last else last
    line = f"{group['count']:>6,} {group['level']:<8} {seen}{_change(group)}  {group['template']}"
    return (
        [line, f"         e.g. {group['sample']}"] if "<" in group["template"] or "…" in group["template"] else [line]
    )


def _short(moment: str | None, window: dict[str, Any]) -> str:
    """A time of day where the window lies within one day, else with the day."""
    if moment is None:
        return "-"
    return moment[11:19] if str(window["from"])[:10] == str(window["to"])[:10] else moment[5:16].replace("T", " ")


def _change(group: dict[str, Any]) -> str:
    if group["before"] is None:
        return ""
    if not group["before"]:
        return " (new)" if group["count"] > 2 else ""
    rate = group["rate_change"]
    if rate is None or 0.8 <= rate <= 1.25:
        return ""
    return f" (×{rate:g})" if rate else " (stopped)"


@tool(title="Analyze logs", read_only=True)
def analyze_logs(
    ctx: Context,
    server_id: Annotated[str, "The server's id"],
    log_path: Annotated[str | None, "File or glob; or give service"] = None,
    service: Annotated[str | None, "A service of the server's context, else a systemd unit"] = None,
    analysis_type: Annotated[Literal["errors", "warnings", "summary"], "Which groups"] = "summary",
    lines: Annotated[int | None, "Only the newest; default 10,000, or all of since", Range(1, 50_000)] = None,
    since: Annotated[str | None, "ISO 8601, or how long ago: 90m, 2h, 3d"] = None,
) -> LogAnalysis:
    """Sum up a log file or a service's journal: events by level, alike ones as groups with count, times, sample and change of rate."""
    server = ctx.inventory.get(server_id)
    source, moment = log_source.resolve(server, log_path, service), parse_since(since)
    script = log_sampling.script(source, moment, lines)
    limit = ctx.config.security.command_timeout
    ran = ctx.fleet.run_script(
        ctx.caller, server, script, timeout=limit, cancelled=ctx.cancelled, keep=log_sampling.KEEP
    )
    clock = Clock.read(ran.text("clock"))
    if clock is None:
        raise BadArgument(
            f"The host's `date '+%s %z'` says {one_line(ran.text('clock'), 60)!r}; its logs can't be read."
        )
    files = log_source.seen(ran)
    reading = _read(ran, source, server, files, lines or log_sampling.ENTRIES)
    most = lines if since or lines else log_sampling.LINES
    found = log_analysis.analyse(reading.pieces, clock, analysis_type, moment.moment(clock), most)
    skipped = log_source.skipped(files, server, ran.facts)
    skipped += [{"path": path, "reason": "too much for one call; give it as log_path"} for path in reading.over]
    notices = [
        *_notices(found, reading, moment, clock, source),
        log_journal.hint(ran) if source.unit else "",
        sudo_refusal(ran.stderr, "/usr/bin/journalctl" if source.unit else "/usr/bin/tail", ran.facts),
    ]
    return LogAnalysis(
        server_id=server.id, source=source.label, analysis_type=analysis_type, totals=found.totals, groups=found.groups,
        group_count=found.kinds, other_count=found.others, lines=found.lines, window=_window(found), sampled=found.sampled,
        truncated=found.others > 0 or _short_of(found, reading, moment, clock), status=found.access, skipped=skipped[:20],
        notice=" ".join(filter(None, notices)) or None,
    )  # fmt: skip


def _read(ran: Ran, source: Source, server: Server, files: list[Seen], most: int) -> Reading:
    if source.unit:
        if "none" in ran.parts:
            raise log_source.no_journal(source, server)
        reading = log_sampling.of_journal(ran, most)
        if "missing" in ran.fields("unit"):
            raise log_source.no_such_unit(source, server)
        return reading
    if not any(file.state in ("ok", "older") for file in files):
        raise log_source.nothing_to_read(source, server, files, ran)
    return log_sampling.of_files(ran, files)


def _window(found: Analysis) -> dict[str, Any]:
    known = found.first is not None and found.last is not None
    return {
        "from": iso(found.first) if found.first is not None else None,
        "to": iso(found.last) if found.last is not None else None,
        "seconds": round((found.last or 0) - (found.first or 0)) if known else None,
        "compared_with": found.compared or None,
    }


def _short_of(found: Analysis, reading: Reading, since: Since, clock: Clock) -> bool:
    """Whether the log goes back further into the window than was read."""
    start = since.moment(clock)
    all_read = (reading.whole or found.sampled) and not found.cut
    return start is not None and not all_read and (found.reaches is None or found.reaches > start)


def _notices(found: Analysis, reading: Reading, since: Since, clock: Clock, source: Source) -> list[str]:
    notices = []
    if found.sampled:
        of = f" of {reading.size:,}" if reading.size else ""
        notices.append(
            f"{reading.read:,}{of} bytes were read: the end whole, of what is older a sample, so counts are estimates "
            "there, and what came rarely may be missing."
        )
    if since.kind != "ever":
        if found.undated:
            notices.append("These lines bear no time that we know, so `since` could not be applied to them.")
        elif _short_of(found, reading, since, clock) and found.first is not None:
            notices.append(
                f"Only what came since {iso(found.first)} was read; for more give a smaller window, or log_path."
            )
        elif not found.lines:
            notices.append(f"Nothing was written to {source.label} since then.")
    return notices
