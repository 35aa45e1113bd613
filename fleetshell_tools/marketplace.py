"""The marketplace of external MCP servers: `browse_mcp_marketplace` and `install_mcp`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fleetshell_tools.core import catalogue
from fleetshell_tools.core.catalogue import Entry
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.install_plan import Installed
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.tool import Output, tool


@dataclass(frozen=True)
class Packages(Output):
    packages: list[dict[str, Any]]
    count: int
    search_query: str | None
    notice: str | None = None

    def text(self) -> str:
        several = "" if self.count == 1 else "s"
        if self.search_query:
            lines = [f"Found {self.count} matching MCP{several}{':' if self.packages else ''}"]
        else:
            lines = [f"{self.count} MCP server{several} available:"]
        for package in self.packages:
            mark = " (installed)" if package["installed"] else ""
            lines.append(f"- {package['name']}{':' if self.search_query else ' -'} {package['description']}{mark}")
        return "\n".join([*lines, *([self.notice] if self.notice else [])])


@dataclass(frozen=True)
class McpInstalled(Output):
    mcp_id: str
    name: str
    package_name: str
    package: str
    version: str
    installed: bool
    enabled: bool
    staged: bool
    status: str
    tools: list[str]
    notice: str | None

    def text(self) -> str:
        if self.staged:
            lines = [f"{self.name} MCP waits for the operator; nothing was installed yet"]
        elif self.status.startswith(MANUAL_STATUS):
            lines = ["Package installed. Manual configuration required in ~/.fleetshell/mcps/"]
        else:
            lines = [f"Successfully installed {self.name} MCP"]
        lines += [f"- Package: {self.package_name}", f"- ID: {self.mcp_id}", f"- Status: {self.status}"]
        if self.package != self.package_name:
            lines.insert(2, f"- Installed: {self.package}")
        if self.tools:
            lines.append(f"- Tools: {', '.join(self.tools)}")
        return "\n".join([*lines, *([self.notice] if self.notice else [])])


MANUAL_STATUS = "Disabled, as asked"


@tool(title="Browse the MCP marketplace", read_only=True, open_world=False)
def browse_mcp_marketplace(
    ctx: Context,
    search_query: Annotated[str | None, "Only servers with these words"] = None,
    category: Annotated[str | None, "Only this category, such as Automation, Database or Development"] = None,
) -> Packages:
    """List MCP servers that install_mcp can install, with what each needs."""
    found = catalogue.search(search_query or "", category or "")
    installed = ctx.marketplace.installed()
    sources = {str(entry.get("catalogue_id")) for entry in installed.values()}
    notice = None
    if not found:
        notice = "Nothing matches; without arguments every server is listed."
    return Packages([_shown(entry, entry.id in sources) for entry in found], len(found), search_query, notice)


def _shown(entry: Entry, installed: bool) -> dict[str, Any]:
    return {
        "package_name": entry.package_name,
        "id": entry.id,
        "name": entry.name,
        "description": entry.description,
        "category": entry.category,
        "installed": installed,
        "replaced_by": entry.replaced_by,
        "requires": _requires(entry),
        "tools": entry.tools,
        "tokens": entry.tokens,
    }


def _requires(entry: Entry) -> dict[str, Any]:
    """What somebody has to give or to install: only what there is."""
    needs = {
        "env": [variable.name for variable in entry.required],
        "arguments": [entry.asks] if entry.asks else [],
        "programs": [f"{need.name} {need.version}".strip() for need in entry.needs],
    }
    return {name: values for name, values in needs.items() if values}


@tool(title="Install an MCP server")
def install_mcp(
    ctx: Context,
    package_name: Annotated[str, "From browse_mcp_marketplace, or any package by its exact version (name@1.2.3)"],
    auto_configure: Annotated[bool, "Enable it at once"] = True,
    mcp_id: Annotated[str | None, "Another id than the usual one"] = None,
    env: Annotated[dict[str, str] | None, "Environment variables; the operator then has to accept"] = None,
    args: Annotated[list[str] | None, "Arguments; the operator then has to accept"] = None,
) -> McpInstalled:
    """Install an MCP server from the marketplace. Packages that are not in it wait until the operator accepts them."""
    done = ctx.marketplace.request(
        package_name, enable=auto_configure, mcp_id=mcp_id or "", env=env, args=args or [], record=ctx.record,
        cancelled=ctx.cancelled,
    )  # fmt: skip
    tools, trouble = _tools(ctx, done)
    plan = done.plan
    return McpInstalled(
        mcp_id=plan.mcp_id, name=plan.name, package_name=plan.package_name, package=plan.package or plan.url,
        version=plan.version, installed=done.installed, enabled=done.enabled, staged=not done.installed,
        status=_status(done, trouble), tools=tools, notice=_notice(done),
    )  # fmt: skip


def _tools(ctx: Context, done: Installed) -> tuple[list[str], str]:
    """The names of the tools of a server that was enabled; or why it does not list them."""
    if not done.enabled:
        return [], ""
    try:
        (state,) = ctx.upstreams.describe(done.plan.mcp_id)
    except FleetShellError as error:
        return [], error.message
    return [one_line(item["name"], 128) for item in state["tools"]], one_line(state["error"] or "", 500)


def _status(done: Installed, trouble: str) -> str:
    plan = done.plan
    if not done.installed:
        return f"Staged; the operator runs `fleetshell mcp accept {plan.mcp_id}`"
    if done.already and not done.enabled:
        return f"Installed already, and disabled; the operator enables it with `fleetshell mcp enable {plan.mcp_id}`"
    if not plan.enable and not done.already:
        return f"{MANUAL_STATUS}; the operator enables it with `fleetshell mcp enable {plan.mcp_id}`"
    if plan.missing and not done.enabled:
        return f"Disabled until it has {' and '.join(plan.missing)}"
    if trouble:
        return f"Enabled, but it did not start: {trouble}"
    if plan.wants:
        return f"Enabled and ready to use, except that its calls will fail: {' '.join(plan.wants)}"
    return "Enabled and ready to use"


def _notice(done: Installed) -> str | None:
    """What stands beside the status: a successor and why, how to complete it, what waits."""
    plan = done.plan
    entry = catalogue.by_id(plan.entry)
    said = []
    if entry and entry.why:
        said.append(entry.why)
    if entry and entry.note:
        said.append(entry.note)
    if not done.installed:
        what = f"{', '.join(plan.given)}" if plan.given else "a package that is not in the marketplace"
        said.append(
            f"Arguments, variables and unknown packages ({one_line(what, 300)}) take effect once the operator has accepted them."
        )
    elif plan.missing and not done.enabled:
        said.append(
            f"The operator sets it in mcps/{plan.mcp_id}.conf (a variable may also stand in the relay's environment), then runs "
            f"`fleetshell mcp enable {plan.mcp_id}`; or call install_mcp again with `args` or `env`, which the operator accepts."
        )
    elif done.already:
        said.append("It was installed already; nothing was changed.")
    return " ".join(said) or None
