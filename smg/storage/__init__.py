"""What survives the process: responses, items, conversations, events."""
