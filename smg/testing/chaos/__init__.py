"""`smg chaos`: gateways are killed in the middle of turns, and what is left of them is judged."""
