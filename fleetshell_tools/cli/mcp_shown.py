"""`mcp list` and `mcp test`: the external MCP servers with their state and cost, the marketplace, and trying one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core import catalogue, control
from fleetshell_tools.core.catalogue import BYTES_PER_TOKEN, Entry
from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.masking import mask_arguments
from fleetshell_tools.core.mcp_pins import Pins
from fleetshell_tools.core.mcps import McpStore
from fleetshell_tools.core.text import one_line

if TYPE_CHECKING:
    from fleetshell_tools.offline import Trial


@command("mcp list", JSON, example="fleetshell mcp list")
def list_mcps(args: argparse.Namespace, home: Home) -> int:
    """List the external MCP servers, what their tools cost a model, what waits for you, and what the marketplace has."""
    home.check()
    from fleetshell_tools.offline import marketplace

    market = marketplace(home)
    installed, staged = market.installed(), market.staged()
    mcps = _configured(home, installed)
    sources = {str(entry.get("catalogue_id")) for entry in installed.values()}
    if args.json:
        waiting = [
            {"id": plan.mcp_id, "package": plan.spec, "given": plan.given, "staged_at": plan.staged_at}
            for plan in staged.values()
        ]
        packages = [_offered(entry, entry.id in sources) for entry in catalogue.entries()]
        output.print_json({"mcps": mcps, "waiting": waiting, "marketplace": packages})
        return 0
    if mcps:
        rows = [
            [mcp["id"], mcp["name"], mcp["status"], _cost(mcp["tools"], mcp["bytes"]), mcp["start"]] for mcp in mcps
        ]
        print(output.table(["ID", "Name", "Status", "Tools", "Starts"], rows))
    else:
        print("No external MCP servers are registered yet. Add one with `fleetshell mcp add`.")
    for mcp in mcps:
        if mcp["error"]:
            print(f"  {output.paint('✗', 'red')} {mcp['id']}: {one_line(mcp['error'], 500)}")
        if mcp["changed"]:
            print(
                f"  {output.paint('!', 'yellow')} {mcp['id']}: changed, and held back until `fleetshell mcp accept {mcp['id']}`: {', '.join(mcp['changed'])}"
            )
    if staged:
        print("\nWaiting for you (`fleetshell mcp accept ID` shows what it is, and asks):")
        for plan in staged.values():
            print(f"  {plan.mcp_id}: {plan.spec}, {one_line(', '.join(plan.given) or 'not in the marketplace', 200)}")
    print("\nMarketplace (ask your assistant to install one):")
    offered = [
        [
            f"{'✓ ' if entry.id in sources else ''}{entry.package_name}",
            entry.description,
            entry.category,
            _cost(entry.tools, entry.size),
        ]
        for entry in catalogue.entries()
    ]
    print(output.table(["Package", "Description", "Category", "Tools"], offered))
    return 0


def _configured(home: Home, installed: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every server with a file, with what a running relay says of it, and what is remembered of its tools."""
    good, bad = McpStore(home.path / "mcps").listing()
    pins, live = Pins(home.path / "mcps" / ".pins"), _live(home)
    found: list[dict[str, Any]] = []
    for mcp in good:
        state = live.get(mcp.id, {})
        changed: list[str] = []
        tools: list[dict[str, Any]] = []
        error = state.get("error")
        try:
            tools, differences = pins.remembered(mcp.id)
            changed = list(differences)
        except FleetShellError as problem:
            error = problem.message
        count, size = len(tools) or None, sum(map(_size, tools)) or None
        tracked = installed.get(mcp.id, {})
        entry = catalogue.by_id(str(tracked.get("catalogue_id") or ""))
        if count is None and entry is not None and entry.version == tracked.get("version"):
            count, size = entry.tools, entry.size  # not started yet: as it was reviewed
        found.append({
            "id": mcp.id, "name": one_line(mcp.title, 60), "enabled": mcp.enabled,
            "status": state.get("status") or ("enabled" if mcp.enabled else "disabled"),
            "tools": count, "bytes": size, "tokens": None if size is None else round(size / BYTES_PER_TOKEN),
            "start": mcp.url or " ".join(mask_arguments([mcp.command or "", *mcp.args])), "description": mcp.description, "tags": list(mcp.tags), "changed": changed, "error": error,
        })  # fmt: skip
    for name, why in bad.items():
        found.append({"id": name, "name": name, "enabled": False, "status": "invalid", "tools": None, "bytes": None, "tokens": None,
                      "start": "", "description": "", "tags": [], "changed": [], "error": why})  # fmt: skip
    return sorted(found, key=lambda entry: str(entry["id"]))


def _live(home: Home) -> dict[str, dict[str, Any]]:
    """What a running relay says of the servers; nothing where none is running."""
    try:
        answer = control.ask(home.control_socket, {"do": "mcps"})
    except FleetShellError as error:
        output.warn(f"The running relay does not say how they are: {error.message}")
        return {}
    return {str(entry["id"]): entry for entry in (answer or {}).get("mcps", ())}


def _size(definition: dict[str, Any]) -> int:
    return len(json.dumps(definition, separators=(",", ":"), ensure_ascii=False).encode())


def _cost(tools: int | None, size: int | None) -> str:
    """How many tools there are, and what they cost a model that sees them all."""
    if tools is None or size is None:
        return "not known yet" if tools is None else str(tools)
    return f"{tools} ({size / 1024:.1f} KB, ~{round(size / BYTES_PER_TOKEN):,} tokens)"


def _offered(entry: Entry, installed: bool) -> dict[str, Any]:
    return {
        "package_name": entry.package_name, "id": entry.id, "name": entry.name, "description": entry.description,
        "category": entry.category, "installed": installed, "replaced_by": entry.replaced_by, "version": entry.version,
        "tools": entry.tools, "bytes": entry.size, "tokens": entry.tokens,
    }  # fmt: skip


@command("mcp test", Arg("id", metavar="ID", help="the server's id"), JSON, example="fleetshell mcp test playwright")
def test(args: argparse.Namespace, home: Home) -> int:
    """Start an external MCP server, list its tools, make a harmless call where one is known, and stop it. Exit code 1 where it fails."""
    home.config()
    mcp = McpStore(home.path / "mcps").get(args.id)
    from fleetshell_tools.offline import marketplace, try_mcp

    market = marketplace(home)
    tracked = market.installed().get(mcp.id, {})
    entry = catalogue.by_id(str(tracked.get("catalogue_id") or ""))
    reviewed = entry if entry is not None and entry.version == tracked.get("version") else None
    for sentence in market.missing(mcp.id):
        output.warn(sentence)
    shown = mcp.url or mcp.command or ""
    try:
        trial = try_mcp(home, mcp, reviewed.smoke if reviewed else None)
    except FleetShellError as error:
        message = f"{error.message} `fleetshell mcp logs {mcp.id}` shows what it printed."
        if args.json:
            output.print_json({"id": mcp.id, "ok": False, "reason": message})
        else:
            print(f"{mcp.id} ({shown})\n  {output.paint('✗', 'red')} {message}")
        return FleetShellError.exit_code
    same = None
    if reviewed and reviewed.tools_sha256:
        same = catalogue.tools_digest(trial.tools) == reviewed.tools_sha256
    if args.json:
        output.print_json({"id": mcp.id, **_as_json(trial), "as_reviewed": same})
    else:
        print(f"{mcp.id} ({shown})")
        _print_trial(trial, same)
    return 0 if trial.smoke_ok else FleetShellError.exit_code


def _as_json(trial: Trial) -> dict[str, Any]:
    size = sum(map(_size, trial.tools))
    tools = [{"name": name, "description": description} for name, description in _tools(trial, 300)]
    return {
        "ok": trial.smoke_ok, "protocol_version": trial.version, "era": "modern" if trial.modern else "legacy",
        "start_ms": trial.start_ms, "tools": tools, "bytes": size, "tokens": round(size / BYTES_PER_TOKEN),
        "refused": trial.refused, "smoke": trial.smoke or None,
    }  # fmt: skip


def _print_trial(trial: Trial, same: bool | None) -> None:
    yes, no, mark = output.paint("✓", "green"), output.paint("✗", "red"), output.paint("!", "yellow")
    size = sum(map(_size, trial.tools))
    print(f"  {yes} started    {trial.start_ms} ms, MCP {trial.version} ({'modern' if trial.modern else 'legacy'} era)")
    print(f"  {yes} tools      {_cost(len(trial.tools), size)}{', as reviewed' if same else ''}")
    for name, description in _tools(trial, 100):
        print(f"      {name}: {description}")
    for sentence in [*trial.refused, *(["Its tools are not those that were reviewed."] if same is False else [])]:
        print(f"  {mark} {sentence}")
    if trial.smoke:
        print(f"  {yes if trial.smoke_ok else no} test call  {trial.smoke}")
    print(f"  {yes} stopped")


def _tools(trial: Trial, longest: int) -> list[tuple[str, str]]:
    return [
        (one_line(str(tool["name"]), 128), one_line(str(tool.get("description", "")), longest)) for tool in trial.tools
    ]
