"""The tool families, in the order in which clients see them: one explicit list."""

from __future__ import annotations

from fleetshell_tools import authentication, commands, discovery, jobs, prompts, shells
from fleetshell_tools.core.tool import Tool

TOOLS: tuple[Tool, ...] = (
    authentication.authenticate,
    discovery.list_servers,
    discovery.search_servers,
    discovery.get_server_context,
    commands.execute_command,
    commands.multi_server_execute,
    jobs.get_job,
    jobs.cancel_job,
    shells.create_shell_session,
    shells.execute_in_session,
    shells.close_shell_session,
    shells.list_active_sessions,
    prompts.save_prompt,
    prompts.read_prompt,
    prompts.list_prompts,
    prompts.edit_prompt,
    prompts.delete_prompt,
)
"""Every built-in tool."""
