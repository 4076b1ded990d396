"""/v1/responses: wire to turn, events to wire, events to rows."""
