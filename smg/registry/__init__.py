"""The workers over HTTP: who is there, and adding and removing them while the gateway runs."""
