"""The tool families, in the order in which clients see them: one explicit list."""

from __future__ import annotations

from fleetshell_tools import (
    authentication,
    commands,
    discovery,
    file_writing,
    files,
    jobs,
    log_analysis,
    logs,
    prompts,
    services,
    shells,
    system,
)
from fleetshell_tools.core.tool import Tool

TOOLS: tuple[Tool, ...] = (
    authentication.authenticate,
    discovery.list_servers,
    discovery.search_servers,
    discovery.get_server_context,
    discovery.add_server_note,
    commands.execute_command,
    commands.multi_server_execute,
    commands.run_troubleshooting,
    jobs.get_job,
    jobs.cancel_job,
    logs.search_logs,
    logs.tail_logs,
    log_analysis.analyze_logs,
    services.get_service_status,
    services.restart_service,
    services.list_services,
    files.read_file,
    files.search_files,
    files.get_file_info,
    file_writing.write_file,
    system.get_system_info,
    system.get_disk_usage,
    system.get_process_list,
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
