"""Raw model text, in pieces, to reasoning, content and tool calls. No I/O, no async."""
