"""FastMCP's proxy before a stdio server, over streamable HTTP: `fastmcp_proxy.py PORT SCRIPT`; runs in FastMCP's own environment."""

from __future__ import annotations

import importlib
import sys

server = {"command": "node", "args": [sys.argv[2]]}
# Without a mode it would speak 2026-07-28 to the server where its client does.
proxy = importlib.import_module("fastmcp.server").create_proxy({"mcpServers": {"all": server}}, mode="auto")
proxy.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False, log_level="error")
