"""What a model pays: tokens (bytes / 4) of `tools/list` and of a standard answer of each tool, over one real sshd."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.mcp_client import connected
from support.relay import ROOT, RelayHome

from bench.effort import Effort
from bench.loopback import loopback
from bench.peers import SERVERS, make_home, relay
from bench.table import Missing, Part, Row, Values
from fleetshell_tools.app import tool_list
from fleetshell_tools.catalog import TOOLS
from fleetshell_tools.core import yamlfile

BYTES_PER_TOKEN = 4
LIST_LIMIT, ANSWER_LIMIT, TYPICAL_LIMIT = 10_000, 4_000, 1_500
WEB = SERVERS[0]
LOGS = ROOT / "tests" / "data" / "logs"
NO_UNIT = "fleetshell-bench-none.service"
"""What is restarted must not be anything that this machine needs."""

CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("list_servers", {}),
    ("search_servers", {"query": "web"}),
    ("add_server_note", {"server_id": WEB, "note": "php-fpm has to be restarted after nginx; ten seconds without answers."}),
    ("get_server_context", {"server_id": WEB}),
    ("execute_command", {"server_id": WEB, "command": "df -h; uptime"}),
    ("execute_command", {"server_id": WEB, "command": "seq 1 100000"}),
    ("get_job", {"job_id": "{job_id}"}),
    ("cancel_job", {"job_id": "{job_id}"}),
    ("multi_server_execute", {"server_ids": ["*"], "command": "uname -a"}),
    ("run_troubleshooting", {"server_id": WEB, "name": "load"}),
    ("search_logs", {"server_id": WEB, "log_path": f"{LOGS}/nginx-access.log", "pattern": "GET"}),
    ("tail_logs", {"server_id": WEB, "log_path": f"{LOGS}/nginx-access.log"}),
    ("analyze_logs", {"server_id": WEB, "log_path": f"{LOGS}/syslog-traditional.log", "analysis_type": "summary"}),
    ("get_service_status", {"server_id": WEB, "service_name": "ssh"}),
    ("restart_service", {"server_id": WEB, "service_name": NO_UNIT}),
    ("list_services", {"server_id": WEB}),
    ("read_file", {"server_id": WEB, "path": f"{ROOT}/README.md"}),
    ("search_files", {"server_id": WEB, "path": f"{ROOT}/fleetshell_tools", "pattern": "*.py"}),
    ("get_file_info", {"server_id": WEB, "path": f"{ROOT}/README.md"}),
    ("write_file", {"server_id": WEB, "path": "{folder}/written.conf", "content": "listen 80\n"}),
    ("get_system_info", {"server_id": WEB}),
    ("get_disk_usage", {"server_id": WEB}),
    ("get_process_list", {"server_id": WEB}),
    ("create_shell_session", {"server_id": WEB}),
    ("execute_in_session", {"session_id": "{session_id}", "command": "df -h; uptime"}),
    ("list_active_sessions", {}),
    ("close_shell_session", {"session_id": "{session_id}"}),
    ("save_prompt", {"name": "check-logs", "description": "Errors of a day", "content": "Look for errors in the logs of {{server}}"}),
    ("read_prompt", {"name": "check-logs"}),
    ("edit_prompt", {"name": "check-logs", "description": "Errors of one day"}),
    ("list_prompts", {}),
    ("delete_prompt", {"name": "check-logs"}),
    ("browse_mcp_marketplace", {}),
    ("install_mcp", {"package_name": "plywright"}),
    ("list_external_mcps", {}),
    ("call_external_tool", {"tool_name": "playwright.browser_click"}),
    ("authenticate", {"code": "{code}"}),
)  # fmt: skip
"""A standard call of each tool, in an order in which each finds what it needs; `{…}` stands for what came before."""

CUT = ("execute_command", "seq 1 100000")
LISTS = {modern: Row(f"tools/list, {era} clients", "limit", "tokens", 1) for modern, era in ((False, "legacy"), (True, "modern"))}  # fmt: skip
TYPICAL = Row("a tool's answer, median", "limit", "tokens", 1)
LARGEST = Row("execute_command, output cut", "limit", "tokens", 1)
ANSWERS = {tool.name: Row(f"answer of {tool.name}", "limit", "tokens", 1) for tool in TOOLS}
ROWS = (*LISTS.values(), TYPICAL, LARGEST, *ANSWERS.values())


def tokens(data: Any) -> float:
    """What data costs: text as it is, anything else as compact JSON."""
    if not isinstance(data, (bytes, str)):
        data = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return len(data.encode() if isinstance(data, str) else data) / BYTES_PER_TOKEN


def measure(folder: Path, effort: Effort) -> Values:
    """Call each tool once; a client shows a model the text or the structured content, so the larger one counts."""
    values: Values = {row: Missing("has no standard call in tokens_part.py") for row in ANSWERS.values()}
    for modern, row in LISTS.items():
        values[row] = tokens(tool_list(modern=modern)), LIST_LIMIT
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(loopback(folder / "net", 1))
        host = net.spec.hosts[0]
        home = make_home(folder / "home", net.key, host.address, host.port, net.spec.user)
        _describe(home)
        process = stack.enter_context(relay(home))
        client = stack.enter_context(connected(process))
        known = {"folder": str(folder), "code": home.code(1)}
        failed: list[str] = []
        for name, arguments in CALLS:
            answer = client.call(name, **_filled(arguments, known))
            if "error" in answer:
                raise RuntimeError(f"{name} was not run: {answer['error']}")
            if answer.get("isError"):
                failed.append(name)
            structured = answer.get("structuredContent", {})
            known.update({key: structured[key] for key in ("job_id", "session_id") if structured.get(key)})
            size = max(tokens(structured), tokens(answer["content"][0]["text"]))
            row = LARGEST if (name, arguments.get("command")) == CUT else ANSWERS[name]
            values[row] = size, ANSWER_LIMIT
    sizes = [found[0] for row in ANSWERS.values() if not isinstance(found := values[row], Missing)]
    values[TYPICAL] = statistics.median(sizes), TYPICAL_LIMIT
    if failed:
        effort.note(f"tools whose standard answer is a failure on this machine: {', '.join(failed)}")
    return values


def _describe(home: RelayHome) -> None:
    """Give one server a file as an operator would write it."""
    path = home.path / "servers" / f"{WEB}.conf"
    server = yamlfile.parse(path.read_text(), path.name).data
    server["services"] = {
        "nginx": {"description": "Web server", "log_path": "/var/log/nginx/access.log", "port": 443, "critical": True},
        "php-fpm": {
            "description": "Runs the shop",
            "unit": "php8.2-fpm.service",
            "common_issues": ["Too few children"],
        },
    }
    server["paths"] = {"site": "/srv/www/shop", "logs": "/var/log/nginx"}
    server["troubleshooting"] = {"load": "uptime", "connections": "ss -s", "config": "nginx -t"}
    path.write_text(yamlfile.dump(server))


def _filled(arguments: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """Arguments with what earlier answers gave."""
    return {
        key: value.format(**known) if isinstance(value, str) and "{" in value else value
        for key, value in arguments.items()
    }


PART = Part("tokens", ROWS, measure)
