"""Protobuf messages of the engines: made by scripts/generate_protos.py, not by hand."""
