"""Everything MCP and HTTP: the protocol without I/O, the HTTP server, authentication and TLS."""
