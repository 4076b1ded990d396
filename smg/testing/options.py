"""How a scripted engine behaves, as one frozen value."""

from dataclasses import dataclass

from smg.testing.generation import Servicer


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How the engine behaves."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: any free one."""
    model_name: str = "scripted"
    itl_ms: float = 0.0
    """Milliseconds before each chunk."""
    per_chunk: int = 1
    """Tokens in a chunk."""
    told_path: str | None = None
    """Where the engine says its model is; `None`: where it really is."""
    max_context: int = 32768
    """Most tokens of prompt and answer together."""
    servicer: Servicer = Servicer.PYTHON
