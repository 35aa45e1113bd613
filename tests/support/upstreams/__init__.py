"""External MCP servers for tests: one on the SDK, one of bare JSON lines that misbehaves as it is told."""
