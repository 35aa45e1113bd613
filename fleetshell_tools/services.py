"""Services of a server: `get_service_status`, `restart_service` and `list_services`."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import Annotated, Any

from fleetshell_tools.core import approvals, known_services, systemd
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, FleetShellError, NotFound, Refused, Unreachable
from fleetshell_tools.core.init_other import LOOKED_FOR
from fleetshell_tools.core.known_services import Known
from fleetshell_tools.core.log_journal import entries
from fleetshell_tools.core.scripts import Ran, Script, sudo_refusal
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.service_scripts import LIST, RESTART, STATUS
from fleetshell_tools.core.systemd import Unit
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.tool import Output, Pattern, tool
from fleetshell_tools.core.types import ALLOWED, Verdict

LOG_LINES = 10
LONGEST_LINE = 300
LONGEST_LIST = 12_000
"""Bytes of JSON that a list may take, where the output budget is not smaller."""
RESTART_LINES = 20
"""Log lines after a restart that failed; after one that worked, the last `CALM_LINES`."""
CALM_LINES = 5
WAIT = 30
"""Seconds that a restart is waited for on the host; clients give up on a call after about a minute."""
TIME_LIMIT = 45

_LEVELS = ("emergency", "alert", "critical", "error", "warning")


@dataclass(frozen=True)
class ServiceStatus(Output):
    server_id: str
    service: str
    exists: bool
    manager: str
    unit: str | None = None
    description: str | None = None
    active_state: str | None = None
    sub_state: str | None = None
    enabled: bool | None = None
    unit_file_state: str | None = None
    since: str | None = None
    main_pid: int | None = None
    memory_bytes: int | None = None
    restarts: int | None = None
    failure: str | None = None
    triggered_by: list[str] = field(default_factory=list)
    timer: dict[str, Any] | None = None
    critical: bool = False
    common_issues: list[str] = field(default_factory=list)
    context: dict[str, Any] = field(default_factory=dict)
    log_source: str | None = None
    recent_log: list[str] = field(default_factory=list)
    notice: str | None = None

    def text(self) -> str:
        name = self.unit or self.service
        if not self.exists:
            return "\n".join(_lines(f"{name} does not exist on {self.server_id}", *self._known(), self.notice))
        nothing = "a template" if "@." in name else "state not known"
        state = f"{self.active_state or nothing}" + (f" ({self.sub_state})" if self.sub_state else "")
        facts = [
            self.description,
            f"at boot: {self.unit_file_state}" if self.unit_file_state else None,
            f"pid {self.main_pid}" if self.main_pid else None,
            f"memory {self.memory_bytes:,} bytes" if self.memory_bytes is not None else None,
            f"restarted {self.restarts} times by itself" if self.restarts else None,
            f"started by {', '.join(self.triggered_by)}" if self.triggered_by else None,
            self.manager if self.manager != "systemd" else None,
        ]
        timer = [f"{key.replace('_', ' ')} {value or 'none'}" for key, value in (self.timer or {}).items()]
        lines = _lines(
            f"{name} on {self.server_id}: {state}" + (f" since {self.since}" if self.since else ""),
            f"Ended badly: {self.failure}" if self.failure else None,
            "; ".join(fact for fact in facts if fact),
            "; ".join(timer),
            *self._known(),
            f"Last lines of {self.log_source}:" if self.recent_log else None,
            *self.recent_log,
            self.notice,
        )
        return "\n".join(lines)

    def _known(self) -> list[str]:
        """What the operator's file tells."""
        lines = ["The server's file marks it critical."] if self.critical else []
        lines += [f"Common issue: {issue}" for issue in self.common_issues]
        if self.context:
            lines.append(f"From the server's file: {json.dumps(self.context, ensure_ascii=False, default=str)}")
        return lines


def _lines(*lines: str | None) -> list[str]:
    return [line for line in lines if line]


@dataclass(frozen=True)
class Restarted(Output):
    server_id: str
    service: str
    unit: str
    manager: str
    before: dict[str, Any]
    after: dict[str, Any]
    success: bool
    verdict: str
    critical: bool
    common_issues: list[str]
    recent_log: list[str]
    duration_ms: int
    notice: str | None = None

    def text(self) -> str:
        states = [
            f"{name}: " + ", ".join(f"{key} {value}" for key, value in state.items() if value is not None)
            for name, state in (("before", self.before), ("after", self.after))
        ]
        first = f"Restarted {self.unit}" if self.success else f"Restart of {self.unit} has not succeeded"
        issues = [] if self.success else [f"Common issue: {issue}" for issue in self.common_issues]
        log = ["Log since then:", *self.recent_log] if self.recent_log else []
        return "\n".join(_lines(f"{first} on {self.server_id}: {self.verdict}", *states, *issues, *log, self.notice))


@dataclass(frozen=True)
class ServiceList(Output):
    server_id: str
    manager: str
    services: list[dict[str, Any]]
    count: int
    states: dict[str, int]
    truncated: bool = False
    notice: str | None = None

    def text(self) -> str:
        totals = ", ".join(f"{number} {state}" for state, number in self.states.items())
        lines = [f"{self.count} services on {self.server_id}" + (f" (of all: {totals})" if totals else "")]
        for item in self.services:
            state = " ".join(str(item[key]) for key in ("active", "sub") if item[key])
            about = "" if item["load"] == "loaded" else f" [{item['load']}]"
            lines.append(
                f"- {item['name']}: {state or 'not known'}{about}"
                + f", {item['description']}" * bool(item["description"])
            )
        return "\n".join(_lines(*lines, self.notice))


def _ask(ctx: Context, server: Server, script: Script, approval_id: str | None = None) -> tuple[Ran, str]:
    """Run a program of ours; returns also what looks after services on the host.

    Raises:
        FleetShellError: The host has nothing that does.
    """
    ran = ctx.fleet.run_script(
        ctx.caller, server, script, timeout=TIME_LIMIT, cancelled=ctx.cancelled, approval_id=approval_id
    )
    manager = one_line(ran.text("manager"), 40)
    if not manager:
        raise FleetShellError(
            f"{server.id} has nothing that looks after services: there is none of {LOOKED_FOR}. "
            f"get_process_list shows what runs there."
        )
    return ran, manager


def _unit(ran: Ran, part: str = "unit") -> Unit | None:
    found = systemd.blocks(ran.text(part))
    return Unit(found[0]) if found else None


def _no_state(server: Server, known: Known, ran: Ran) -> FleetShellError:
    said = one_line(ran.stderr, 300)
    return FleetShellError(f"{server.id} told nothing of {known.unit}{f' ({said})' if said else ''}.")


def _near(ran: Ran, known: Known) -> str:
    """Names like the one that is not there, and where a service's real name goes."""
    near = systemd.near(known.unit, ran.lines("known"))
    words = [f"Near names: {', '.join(near)}." if near else "list_services shows what there is."]
    if known.entry:
        words.append(
            "The server's file lists this service: the operator can give its real name there by the key `unit`."
        )
    return " ".join(words)


def _log(ran: Ran) -> list[str]:
    """Log lines of the journal, or of the log file where that was read."""
    lines = []
    for entry in entries(ran.part("log")):
        level = f" {_LEVELS[entry.priority]}:" if entry.priority is not None and entry.priority < len(_LEVELS) else ""
        lines.append(one_line(f"{systemd.iso(entry.time)}{level} {entry.line}", LONGEST_LINE))
    return lines or [one_line(line, LONGEST_LINE) for line in ran.lines("file") if line.strip()]


def _log_notice(ran: Ran, server: Server, lines: list[str]) -> str | None:
    """Why there is no log where there should be one."""
    user = ran.facts["user"] or "the login user"
    if refusal := sudo_refusal(ran.stderr, "/usr/bin/journalctl", ran.facts):
        return refusal
    if lines or "log" not in ran.parts or ran.text("readable").strip():
        return None
    mend = "" if server.sudo else " or set `sudo: true` in the server's file"
    return f"{user} may not read the journal; the operator can add {user} to the group systemd-journal{mend}."


def _join(*notices: str | None) -> str | None:
    return " ".join(notice for notice in notices if notice) or None


@tool(title="Show a service's status", read_only=True)
def get_service_status(
    ctx: Context,
    server_id: Annotated[str, "From list_servers"],
    service_name: Annotated[str, "A service of the server's file, or a unit: nginx, backup.timer, getty@tty1"],
) -> ServiceStatus:
    """Show whether a service exists and runs, since when, its process, memory, restarts, last log lines and known issues."""
    server = ctx.inventory.get(server_id)
    known = known_services.find(server, service_name)
    log_path = str(known.entry.get("log_path") or "")
    data = (known.unit, systemd.template_glob(known.unit), log_path, str(LOG_LINES))
    ran, manager = _ask(ctx, server, Script("get_service_status", STATUS, data, shown=shlex.quote(known.unit)))
    if "instances" in ran.parts:
        return _template(server, known, ran, manager)
    unit = _unit(ran)
    if unit is None or not unit.exists:
        if "known" not in ran.parts:
            raise _no_state(server, known, ran)
        return ServiceStatus(
            server.id, service_name, False, manager, unit=known.unit, critical=known.critical,
            common_issues=known.common_issues, context=_about(known), notice=_near(ran, known),
        )  # fmt: skip
    # By another of its names it is still the service that the operator has described.
    known = known if known.entry else known_services.of_units(known_services.listed(server), unit.names) or known
    memory, memory_notice = _memory(unit, ran)
    lines = _log(ran)
    return ServiceStatus(
        server.id, service_name, True, manager, unit=unit.name, description=unit["Description"] or None,
        active_state=unit.active, sub_state=unit.sub, enabled=unit.enabled, unit_file_state=unit["UnitFileState"] or None,
        since=unit.since, main_pid=unit.main_pid, memory_bytes=memory, restarts=unit.restarts, failure=unit.failure,
        triggered_by=unit["TriggeredBy"].split(), timer=_timer(unit, ran), critical=known.critical,
        common_issues=known.common_issues, context=_about(known), recent_log=lines,
        log_source=("the journal" if entries(ran.part("log")) else log_path) if lines else None,
        notice=_join(_unknown(unit, manager), memory_notice, _log_notice(ran, server, lines)),
    )  # fmt: skip


def _about(known: Known) -> dict[str, Any]:
    """The rest of a service's entry in the server's file."""
    return {key: value for key, value in known.entry.items() if key not in ("critical", "common_issues")}


def _unknown(unit: Unit, manager: str) -> str | None:
    if unit.active is None:
        return f"Its state could not be read ({manager} told none to this login)."
    if unit["LoadState"] == "not-found":
        return "Its unit file is gone, but it still runs."
    return None


def _memory(unit: Unit, ran: Ran) -> tuple[int | None, str | None]:
    """The memory of a running service in bytes, and what to know about the number."""
    if unit.memory_bytes is not None or not unit.main_pid:
        return unit.memory_bytes, None
    resident = re.fullmatch(r"(\d+) kB", ran.fields("process").get("VmRSS", ""))
    if resident is None:
        return None, "Its memory is not known: neither accounted for it, nor to be seen in /proc."
    return int(resident[1]) * 1024, "memory_bytes is that of the main process: the host does not account for services."


def _timer(unit: Unit, ran: Ran) -> dict[str, Any] | None:
    """When a timer fires, and how what it starts ended last."""
    if not unit.name.endswith(".timer"):
        return None
    host = ran.fields("host")
    now, uptime = (
        float(host[key]) if re.fullmatch(r"[\d.]{1,20}", host.get(key, "")) else None for key in ("now", "uptime")
    )
    started = _unit(ran, "triggers")
    return {
        "next_run": unit.next_run(now, uptime),
        "last_run": systemd.moment(unit["LastTriggerUSec"]),
        "starts": unit["Triggers"] or None,
        "last_result": started.failure or started.state if started else None,
    }


def _template(server: Server, known: Known, ran: Ran, manager: str) -> ServiceStatus:
    instances = [Unit(block) for block in systemd.blocks(ran.text("instances"))]
    state = one_line(ran.text("template"), 40) or None
    listed = ", ".join(f"{unit.name} {unit.state}" for unit in instances[:20])
    exists, enabled = bool(state or instances), Unit({"UnitFileState": state or ""}).enabled
    notice = (
        f"It is a template and has no state of its own. Instances: {listed or 'none is loaded'}. Ask for one of them."
    )
    return ServiceStatus(
        server.id, known.name, exists, manager, unit=known.unit, enabled=enabled, unit_file_state=state, critical=known.critical,
        common_issues=known.common_issues, context=_about(known), notice=notice if exists else _near(ran, known),
    )  # fmt: skip


@tool(title="Restart a service", destructive=True)
def restart_service(
    ctx: Context,
    server_id: Annotated[str, "From list_servers"],
    service_name: Annotated[str, "A service of the server's file, or a unit: nginx, backup.timer, getty@tty1"],
    approval_id: Annotated[str | None, "From the operator, where one was asked for"] = None,
) -> Restarted:
    """Restart a service and wait up to 30 s for what comes of it: its state before and after, and its new log lines."""
    server = ctx.inventory.get(server_id)
    known = known_services.find(server, service_name)
    if systemd.template_glob(known.unit) or known.unit.startswith("-"):
        raise BadArgument(f"{known.unit} can't be restarted; name a service, or an instance of the template.")
    policy = ctx.config.security.restart_critical
    others = [other.unit for other in known_services.listed(server) if other.critical and other.unit != known.unit]
    asked = others if policy != approvals.ALLOW else []
    stem = known.unit.removesuffix(".service")
    script = Script(
        "restart_service", RESTART, (known.unit, str(WAIT), str(RESTART_LINES), *asked), shown=shlex.quote(known.unit),
        # Both ways to write it, so that a rule for either holds.
        judged="; ".join(f"systemctl restart {shlex.quote(name)}" for name in dict.fromkeys([stem, known.unit])),
        policy=_policy(policy, server, known) if known.critical else ALLOWED,
    )  # fmt: skip
    try:
        ran, manager = _ask(ctx, server, script, approval_id)
    except Unreachable as error:
        if error.step == "lost":
            lost = f"{error.message} The restart of {known.unit} may have been asked for: look with get_service_status first."
            raise Unreachable(lost, step=error.step) from None
        raise
    before = _unit(ran, "before")
    if before is None or not before.exists:
        if "known" not in ran.parts:
            raise _no_state(server, known, ran)
        raise NotFound(f"{known.unit} does not exist on {server.id}; nothing was restarted. {_near(ran, known)}")
    known = known if known.entry else known_services.of_units(known_services.listed(server), before.names) or known
    if "critical" in ran.parts:
        raise Refused(
            f"Nothing was restarted: {before.name} on {server.id} is also {known.unit}, which the server's file marks critical. "
            f"Ask for it by that name."
        )
    _raise_if_refused(server, before, ran)
    after = _unit(ran, "after") or Unit({})
    success, verdict = systemd.verdict(before, after, WAIT)
    code = ran.text("code").strip()
    if code not in ("0", ""):
        success, verdict = False, f"{after.state}; the restart's exit code was {code}"
    lines = _log(ran) or [one_line(line, LONGEST_LINE) for line in ran.lines("asked")]
    return Restarted(
        server.id, service_name, before.name, manager, before=_state(before), after=_state(after), success=success,
        verdict=verdict, critical=known.critical, common_issues=known.common_issues, recent_log=lines if not success or after.restarts else lines[-CALM_LINES:],
        duration_ms=ran.duration_ms, notice=_join(systemd.carrier(before.names), None if success else _log_notice(ran, server, lines)),
    )  # fmt: skip


def _policy(policy: str, server: Server, known: Known) -> Verdict:
    act = f"restarting {known.unit} on {server.id}, which is marked critical,"
    return approvals.policy_verdict(policy, "security.restart_critical", act)


def _raise_if_refused(server: Server, unit: Unit, ran: Ran) -> None:
    """Nothing was restarted where the request itself was refused."""
    said, code = one_line(ran.text("asked"), 400), ran.text("code").strip()
    if code in ("0", ""):
        return
    # sudoers(5): these characters are escaped in a command's arguments.
    command = re.sub(r"[:,=\\]", r"\\\g<0>", one_line(ran.text("command"), 300))
    if refusal := sudo_refusal(ran.text("asked"), command, ran.facts):
        raise Refused(f"{unit.name} was not restarted: {refusal}")
    if (
        not server.sudo
        and ran.facts["uid"] != "0"
        and re.search(r"[Aa]ccess denied|authentication|[Pp]ermission", said)
    ):
        user = ran.facts["user"] or "the login user"
        raise Refused(
            f"{user} may not restart {unit.name} on {server.id} ({said}). The operator can set `sudo: true` in the server's file, "
            f"with a line in sudoers (visudo): {user} ALL=(root) NOPASSWD: {command}"
        )
    if "after" not in ran.parts:
        raise FleetShellError(f"{unit.name} on {server.id} was not restarted: {said or f'exit code {code}'}")


def _state(unit: Unit) -> dict[str, Any]:
    return {
        "active_state": unit.active, "sub_state": unit.sub, "main_pid": unit.main_pid, "since": unit.since,
        "restarts": unit.restarts, "failure": unit.failure,
    }  # fmt: skip


@tool(title="List services", read_only=True)
def list_services(
    ctx: Context,
    server_id: Annotated[str, "From list_servers"],
    state: Annotated[
        str | None, "failed, active, running, inactive, … or all; default: all but inactive",
        Pattern(r"[A-Za-z-]{1,30}", "a state such as failed, active, running, inactive, or all"),
    ] = None,
    pattern: Annotated[str | None, "Glob on the name: nginx*, *.timer"] = None,
) -> ServiceList:  # fmt: skip
    """List a server's services with their states, failed ones first."""
    server = ctx.inventory.get(server_id)
    kind = (pattern or "").rpartition(".")[2]
    kind = kind if kind in systemd.TYPES and "." in (pattern or "") else "service"
    wanted = state.lower() if state else "all" if pattern else None
    everything = "" if wanted in (None, "active", "failed", "running") else "1"
    ran, manager = _ask(ctx, server, Script("list_services", LIST, (kind, everything), shown=_shown(state, pattern)))
    units = {unit.name: unit for unit in (Unit(block) for block in systemd.blocks(ran.text("units"))) if unit.exists}
    matching = [unit for unit in units.values() if systemd.has_name(unit, pattern)]
    chosen = sorted((unit for unit in matching if systemd.has_state(unit, wanted)), key=systemd.rank)
    states: dict[str, int] = {}
    for unit in sorted(matching, key=systemd.rank):
        states[unit.active or "unknown"] = states.get(unit.active or "unknown", 0) + 1
    shown, budget = [], min(ctx.config.security.max_output_bytes - 1000, LONGEST_LIST)
    for unit in chosen:
        item = {
            "name": unit.name, "load": unit["LoadState"], "active": unit.active, "sub": unit.sub,
            "description": one_line(unit["Description"], 60),
        }  # fmt: skip
        budget -= len(json.dumps(item).encode()) + 2
        if budget < 0:
            break
        shown.append(item)
    cut = len(shown) < len(chosen)
    notice = None
    if not chosen:
        notice = (
            f"None matches; the states here: {', '.join(states) or 'none'}. Leave out state or pattern to see more."
        )
    elif cut:
        notice = f"Only the first {len(shown)} of {len(chosen)} are shown; narrow it by state or pattern."
    elif wanted is None:
        notice = 'Inactive ones are left out; state "inactive" or "all" lists them.'
    return ServiceList(server.id, manager, shown, len(chosen), states, cut, notice)


def _shown(state: str | None, pattern: str | None) -> str:
    return shlex.join([word for word in (state, pattern) if word])
