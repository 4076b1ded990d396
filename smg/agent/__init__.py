"""The turn: decisions (loop.py) and waiting (run.py)."""
