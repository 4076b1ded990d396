"""Ids that nobody can guess."""

import secrets


def new_id(prefix: str) -> str:
    """A fresh id: the prefix, an underscore and 192 random bits; chat ids are written with `-`."""
    separator = "-" if prefix == "chatcmpl" else "_"
    return f"{prefix}{separator}{secrets.token_hex(24)}"
