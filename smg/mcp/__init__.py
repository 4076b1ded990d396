"""Tool servers: the MCP side of the gateway."""
