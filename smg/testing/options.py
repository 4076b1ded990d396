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
    ranks: int = 1
    """Data-parallel ranks, each with a cache of its own."""
    block_size: int = 16
    """Tokens in a block of the prefix cache."""
    cache_blocks: int = 1 << 16
    """Blocks that a rank's prefix cache has room for."""
    kv_events: bool = True
    """Whether it tells what its caches go through."""
