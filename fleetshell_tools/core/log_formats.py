"""One line of a log taken apart: when, how bad, by which program, and what it says, in the formats that servers write.

Known are RFC 3164 and RFC 5424 syslog (also with RFC 3339 times, as rsyslog writes them, and busybox's `facility.level`), the
journal's JSON, nginx and Apache access and error logs, JSON lines (also Docker's), logfmt, Postfix, klog, Redis, Python logging,
and lines that begin with a time or hold a level. Anything else is a line whose level is guessed by its words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fleetshell_tools.core import log_levels
from fleetshell_tools.core.log_time import Stamps
from fleetshell_tools.core.text import clean

LONGEST_LINE = 4096
LONGEST_JSON = 65536


@dataclass(slots=True)
class Entry:
    """One line, parsed.

    Attributes:
        seconds: When it was written, since the epoch; None where the line does not say.
        level: One of `log_levels.LEVELS`.
        program: Program, unit or logger; "" where the line does not say.
        message: What it says, without all that; more lines may follow after newlines.
        raw: The line as it stood there.
        source: Tells lines of different processes apart: program and process id.
        headed: Whether it begins as the lines of its format do; one that does not may go on with the line before.
        request: Method and path of an access log's line; None for all others.
        status: Its HTTP status; 0 for all others.
        times: How often syslog says that it came.
        whole: Its format has one line an event, so a traceback after it is not its.
        lines: How many lines it took.
    """

    seconds: float | None
    level: str
    program: str
    message: str
    raw: str
    source: str = ""
    headed: bool = True
    request: tuple[str, str] | None = None
    status: int = 0
    times: int = 1
    whole: bool = False
    lines: int = 1


_CLOCK = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_RFC3339 = rf"\d{{4}}-\d\d-\d\dT{_CLOCK}(?:Z|[+-]\d\d:?\d\d)?"
_SYSLOG = re.compile(
    rf"(?:<(?P<pri>\d{{1,3}})>)?(?:[A-Z][a-z][a-z] [ \d]\d (?:\d{{4}} )?{_CLOCK}|{_RFC3339}) \S{{1,255}} "
    r"(?:[a-z0-9]{2,10}\.(?P<severity>[a-z]{3,7}) )?(?P<program>[^\s:\[\]]{1,80})(?:\[(?P<pid>[^\]\s]{1,20})\])?: ?(?P<message>.*)",
    re.DOTALL,
)
_RFC5424 = re.compile(
    rf"<(?P<pri>\d{{1,3}})>1 (?:-|{_RFC3339}) \S{{1,255}} (?P<program>\S{{1,48}}) (?P<pid>\S{{1,128}}) \S{{1,32}} "
    r"(?:-|(?:\[(?:[^\]\\\"]|\\.|\"(?:[^\"\\]|\\.)*\")*\])+) ?(?P<message>.*)",
    re.DOTALL,
)
_ACCESS = re.compile(
    r"(?:\S{1,255} )?(?P<client>\S{1,255}) \S{1,255} .{1,255}? \[[^\]]{20,32}\] \"(?P<request>(?:[^\"\\]|\\.)*)\" (?P<status>[1-5]\d\d) (?:\d+|-)(?= |$)"
)
_NGINX_ERROR = re.compile(
    rf"\d{{4}}/\d\d/\d\d {_CLOCK} \[(?P<level>[a-z]+)\] (?P<pid>\d+)#\d+: (?:\*\d+ )?(?P<message>.*)", re.DOTALL
)
_APACHE_ERROR = re.compile(
    rf"\[[A-Z][a-z][a-z] [A-Z][a-z][a-z] [ \d]\d {_CLOCK} \d{{4}}\] \[(?:(?P<module>[\w-]*):)?(?P<level>[a-z0-9]+)\] "
    r"(?:\[pid (?P<pid>\d+)[^\]]*\] )?(?P<message>.*)",
    re.DOTALL,
)
_CLIENT = re.compile(r"\[client [^\]]*\] ")
_KLOG = re.compile(rf"(?P<level>[IWEF])\d{{4}} {_CLOCK} +\d+ (?P<program>[\w./-]+):\d+\] (?P<message>.*)", re.DOTALL)
_REDIS = re.compile(
    rf"(?P<pid>\d+):[A-Z] \d\d [A-Z][a-z][a-z] (?:\d{{4}} )?{_CLOCK} (?P<level>[.*#-]) (?P<message>.*)", re.DOTALL
)
_PYTHON = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):(?P<program>[\w.-]+):(?P<message>.*)", re.DOTALL)
_STAMP = re.compile(
    rf"\s*[\[(<]?(?:\d{{4}}[-/]\d\d[-/]\d\d[T _]{_CLOCK}(?: ?(?:Z|UTC|GMT|[A-Z]{{2,3}}T|[+-]\d\d:?\d\d)(?!\w))?"
    rf"|(?:[A-Z][a-z][a-z] )?[A-Z][a-z][a-z] [ \d]\d {_CLOCK}(?: \d{{4}})?|\d\d-[A-Z][a-z][a-z]-\d{{4}} {_CLOCK}|\d{{10}}(?:\.\d+)?(?= ))[\])>]?[:,]?\s*"
)
_LOGGER = re.compile(
    r"[\s\])|>:,-]*(?:\[(?P<thread>[\w./$#:() -]{1,80})\][\s:-]*)?(?:(?P<logger>[A-Za-z_][\w.$-]{0,60}) ?(?: - |: (?=\S)))?"
)
_BEFORE = re.compile(r"(?:.*[\s\[])?(?P<name>[A-Za-z_][\w.$-]{1,60})[\])]?(?: -)? ?[\[(|-]*$")
_PAIR = re.compile(r"(?P<key>[A-Za-z_@][\w.@-]{0,60})=(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<bare>[^\s\"]*))")
_LOGFMT_KEYS = re.compile(r"(?:^|\s)(?:level|lvl|msg)=")
_REPEATED = re.compile(r"message repeated (?P<times>\d{1,7}) times: \[ ?(?P<message>.*)\]$", re.DOTALL)

_DELAYS = re.compile(r" delays?=[\d./]+,")
"""Of a delivery by Postfix; without them the reason of a failure stands near the front."""

_KLOG_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "critical"}
_REDIS_LEVELS = {".": "debug", "-": "debug", "*": "info", "#": "warning"}
_LEVEL_KEYS = ("level severity lvl levelname log.level loglevel log_level severity_text @level PRIORITY").split()
_MESSAGE_KEYS = "message msg MESSAGE event log text @message @m body error err".split()
_TIME_KEYS = ("time timestamp ts @timestamp t @t datetime date asctime eventTime _source_realtime_timestamp").split()
_PROGRAM_KEYS = "logger service name component app unit logger_name module caller program source".split()
_TRACE_KEYS = "exc_info exception stack_trace stacktrace stack traceback error.stack_trace".split()
_PATH_KEYS = "path uri url request_uri".split()
_STATUS_KEYS = "status status_code http_status response_code".split()


class LineParser:
    """Parses the lines of one log."""

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps
        self._order: list[Callable[[str], Entry | None]] = [
            self._access,
            self._rfc5424,
            self._syslog,
            self._nginx_error,
            self._apache_error,
            self._klog,
            self._redis,
            self._python,
            self._logfmt,
            self._stamped,
        ]

    def parse(self, line: str) -> Entry:
        """One line, without its end; never raises, whatever it holds."""
        entry = self._json(line)
        if entry is not None:
            return entry
        line = line[:LONGEST_LINE]
        if line[:1] not in " \t":
            # Formats are tried from the narrow to the wide one, so none can take the lines of another by being first.
            for read in self._order:
                entry = read(line)
                if entry is not None:
                    return entry
        return self._plain(line)

    def _syslog(self, line: str) -> Entry | None:
        match = _SYSLOG.match(line)
        return self._from_syslog(match, line, match["severity"]) if match else None

    def _rfc5424(self, line: str) -> Entry | None:
        match = _RFC5424.match(line) if line[:1] == "<" else None
        return self._from_syslog(match, line, None) if match else None

    def _from_syslog(self, match: re.Match[str], line: str, severity: str | None) -> Entry:
        program, message, times = match["program"], match["message"].removeprefix("\ufeff"), 1
        repeated = _REPEATED.match(message)
        if repeated:
            message, times = repeated["message"], max(int(repeated["times"]), 1)
        if program.startswith("postfix/"):
            message = _DELAYS.sub("", message)
        if "#0" in message:  # as rsyslog writes control characters
            message = message.replace("#012", "\n").replace("#011", "\t")
        told = (
            log_levels.priority(int(match["pri"])) if match["pri"] else log_levels.named(severity) if severity else None
        )
        return Entry(
            self._stamps.of(line), log_levels.of_syslog(told, program, message), program, message, line, f"{program}[{match['pid'] or ''}]", times=times
        )  # fmt: skip

    def _access(self, line: str) -> Entry | None:
        if '] "' not in line:
            return None
        match = _ACCESS.match(line)
        if match is None:
            return None
        code = int(match["status"])
        method, _, rest = match["request"].partition(" ")
        path = rest.rpartition(" ")[0] or rest
        request = (
            (method, path)
            if method.isalpha() and method.isupper() and len(method) < 20 and path
            else ("(no request)", "")
        )
        message = f"{request[0]} {request[1]}".strip() + f" {code}"
        return Entry(
            self._stamps.of(line),
            log_levels.status(code),
            "",
            message,
            match[0],
            request=request,
            status=code,
            whole=True,
        )

    def _nginx_error(self, line: str) -> Entry | None:
        match = _NGINX_ERROR.match(line)
        if match is None:
            return None
        message = match["message"].partition(", client: ")[0]
        return Entry(
            self._stamps.of(line),
            log_levels.named(match["level"]) or "unknown",
            "nginx",
            message,
            line,
            match["pid"],
            whole=True,
        )

    def _apache_error(self, line: str) -> Entry | None:
        match = _APACHE_ERROR.match(line)
        if match is None:
            return None
        level = log_levels.named(match["level"]) or ("debug" if match["level"].startswith("trace") else "unknown")
        message = _CLIENT.sub("", match["message"], count=1).partition(", referer: ")[0]
        return Entry(self._stamps.of(line), level, match["module"] or "", message, line, match["pid"] or "", whole=True)

    def _klog(self, line: str) -> Entry | None:
        match = _KLOG.match(line)
        if match is None:
            return None
        return Entry(self._stamps.of(line), _KLOG_LEVELS[match["level"]], match["program"], match["message"], line)

    def _redis(self, line: str) -> Entry | None:
        match = _REDIS.match(line)
        if match is None:
            return None
        return Entry(self._stamps.of(line), _REDIS_LEVELS[match["level"]], "", match["message"], line, match["pid"])

    def _python(self, line: str) -> Entry | None:
        match = _PYTHON.match(line)
        if match is None:
            return None
        return Entry(None, log_levels.named(match["level"]) or "unknown", match["program"], match["message"], line)

    def _logfmt(self, line: str) -> Entry | None:
        if not _LOGFMT_KEYS.search(line) or not _PAIR.match(line):
            return None
        pairs = {
            match["key"]: match["bare"] if match["quoted"] is None else match["quoted"].replace('\\"', '"')
            for match in _PAIR.finditer(line)
        }
        message = next((pairs[key] for key in ("msg", "message", "event") if pairs.get(key)), "")
        reason = pairs.get("err") or pairs.get("error")
        return self._from_fields(
            pairs, f"{message}: {reason}" if message and reason else message or reason or line, line
        )

    def _json(self, line: str) -> Entry | None:
        if line[:1] != "{" or len(line) > LONGEST_JSON:
            return None
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict):
            return None
        if "MESSAGE" in fields or "__REALTIME_TIMESTAMP" in fields:
            return self._journal(fields)
        message = next(filter(None, (_text(fields.get(key)) for key in _MESSAGE_KEYS)), "")
        inner = fields.get("stream") in ("stdout", "stderr") and isinstance(fields.get("log"), str)
        if inner:  # Docker's json-file: what the program wrote is a line of its own format
            entry = self.parse(clean(str(fields["log"])).rstrip("\n")[:LONGEST_LINE].lstrip("{"))
            entry.seconds = self._time_of(fields) or entry.seconds
            return entry
        trace = next(filter(None, (_text(fields.get(key)) for key in _TRACE_KEYS)), "")
        if trace and trace != message:
            message = f"{message}\n{trace}"
        return self._from_fields(fields, message or line, line)

    def _from_fields(self, fields: Mapping[str, Any], message: str, line: str) -> Entry:
        """From what has names: JSON lines and logfmt."""
        level = next(filter(None, (_level(fields.get(key)) for key in _LEVEL_KEYS)), None)
        code = next((value for value in map(_status, map(fields.get, _STATUS_KEYS)) if value), 0)
        if level is None:
            level = log_levels.status(code) if code else log_levels.by_words(message) or "info"
        program = next(filter(None, (_text(fields.get(key)) for key in _PROGRAM_KEYS)), "")[:80]
        entry = Entry(self._time_of(fields), level, program, message[:LONGEST_LINE], line[:LONGEST_LINE], program)
        if code:
            about = fields.get("request")
            about = about if isinstance(about, dict) else fields
            method, path = (
                _text(about.get("method")),
                next(filter(None, (_text(about.get(key)) for key in _PATH_KEYS)), ""),
            )
            if method and path and "\n" not in message:
                entry.request, entry.status = (method[:20], path), code
        return entry

    def _time_of(self, fields: Mapping[str, Any]) -> float | None:
        for key in _TIME_KEYS:
            value = fields.get(key)
            if isinstance(value, (str, int, float)) and not isinstance(value, bool):
                seconds = self._stamps.of(str(value)[:40])
                if seconds is not None:
                    return seconds
        return None

    def _journal(self, fields: Mapping[str, Any]) -> Entry:
        """An entry of `journalctl -o json`; a message that is not UTF-8 comes as a list of bytes, a cut one as null."""
        said = fields.get("MESSAGE")
        if isinstance(said, list):
            said = bytes(byte for byte in said if isinstance(byte, int) and 0 <= byte < 256).decode("utf-8", "replace")
        message = clean(said)[:LONGEST_LINE] if isinstance(said, str) else ""
        unit = _text(fields.get("_SYSTEMD_UNIT") or fields.get("UNIT"))
        program = _text(fields.get("SYSLOG_IDENTIFIER") or fields.get("_COMM")) or unit
        if program.startswith("postfix/"):
            message = _DELAYS.sub("", message)
        severity, stamp = _text(fields.get("PRIORITY")), _text(fields.get("__REALTIME_TIMESTAMP"))
        told = log_levels.priority(int(severity)) if severity.isascii() and severity.isdigit() else None
        seconds = int(stamp) / 1e6 if stamp.isascii() and stamp.isdigit() and len(stamp) < 18 else None
        level = log_levels.of_syslog(told, program, message)
        return Entry(
            seconds, level, program[:80], message, f"{program}: {message}", f"{program}[{_text(fields.get('_PID'))}]"
        )

    def _stamped(self, line: str) -> Entry | None:
        """A time, then perhaps a level with thread and logger around it: Python logging, log4j, PostgreSQL, MySQL and many more."""
        match = _STAMP.match(line)
        start = match.end() if match else 0
        found = log_levels.stated(line, start + 100)
        if match is None and (found is None or found[1] > 40):
            return None
        if found is None:
            message = line[start:]
            return Entry(self._stamps.of(line), log_levels.by_words(message) or "unknown", "", message, line)
        level, begin, end = found
        stamp = self._stamps.of(line)
        before = _BEFORE.match(line[start:begin])
        if before is not None:
            return Entry(
                stamp, level, before["name"], line[end:].lstrip(" \t])|>:,-"), line, before["name"], match is not None
            )
        after = _LOGGER.match(line, end)
        assert after is not None, "it matches the empty text"
        thread = after["thread"] or ""
        # A thread's name has a number, and would make a group of each thread.
        name = after["logger"] or ("" if any(char.isdigit() for char in thread) else thread)
        return Entry(stamp, level, name, line[after.end() :] or line[start:], line, name, match is not None)

    def _plain(self, line: str) -> Entry:
        level = log_levels.by_words(line) or "unknown"
        return Entry(self._stamps.of(line), level, "", line, line, headed=False)


def lines_of(text: str) -> Iterator[str]:
    """The lines that say anything."""
    return (line for line in text.split("\n") if line and not line.isspace())


def _text(value: Any) -> str:
    """A field of a JSON line as clean text; numbers too, nothing else."""
    if isinstance(value, str):
        return clean(value)
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _level(value: Any) -> str | None:
    if isinstance(value, str):
        return log_levels.named(value) or (
            log_levels.number(int(value)) if value.isascii() and value.isdigit() and len(value) < 3 else None
        )
    return log_levels.number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _status(value: Any) -> int:
    text = str(value)
    return int(text) if len(text) == 3 and text.isascii() and text.isdigit() and "100" <= text < "600" else 0
