"""/v1/conversations: named sequences of items."""
