"""/v1/completions: text that goes on with a text."""
