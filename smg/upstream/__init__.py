"""Workers that speak the OpenAI API over HTTP: conversations out, deltas in."""
