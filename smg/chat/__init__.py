"""/v1/chat/completions: another way in and another way out of the same line; no record."""
