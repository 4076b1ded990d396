"""Items to and from JSON: rows (`to_json`, `from_json`) and the API (`to_wire`, `from_wire`)."""

from smg.item_reader import from_json, from_wire
from smg.item_writer import to_json, to_wire

__all__ = ["from_json", "from_wire", "to_json", "to_wire"]
