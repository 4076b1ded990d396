"""What a worker tells of its KV cache while it changes: the engines' common messages to our values.

All engines that tell it say it in the same messages. In go bytes, out come batches whose events
are small enough to be taken in one after another without holding anybody up. What does not concern
a plain prompt in the device's own memory is left out here, so that nobody above has to know it:

- another tier (host, disk, elsewhere), a remote pool, or the cache of an agent beside the engine:
  what is there has yet to be fetched, and its removal leaves the device's copy where it is;
- blocks of a LoRA adapter, with a cache salt, or with other extra keys (pictures): the same tokens
  mean another cache there, and the gateway's prompts have none of it;
- caches of sliding windows and recurrent states: a block in one of them says nothing of its prefix.

What follows a block that is left out has lost its beginning, and is left out too.
"""

from array import array
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from google.protobuf.message import DecodeError

from smg.engines._generated import common_pb2 as pb
from smg.engines.base import EngineLoad
from smg.engines.status import WrongEngine
from smg.errors import EngineError

Thing = TypeVar("Thing")

SLICE: Final = 128
"""Blocks in an event: a millisecond's work, or two."""

OWN_WORDS: Final = frozenset({"", "GPU", "DEVICE"})
"""How engines call their device's memory where they name no tier."""
AGENT: Final = "kvcr"
"""An owner of blocks that is not the engine."""
WHOLE_PREFIX: Final = frozenset({"", "full_attention", "mla_attention", "sink_full_attention"})
"""Kinds of attention that need every block before, so that a block tells of its prefix."""


class NoKvEvents(EngineError):
    """Raised when a worker does not tell of its cache, and will not as long as it runs."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a prompt that is cached."""

    hash: int
    """The engine's own name of it."""
    tokens: bytes
    """Its token ids, four bytes each."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks that are cached now, each the child of the one before."""

    parent: int | None
    """The block before the first; `None`: the prompt begins here."""
    blocks: Sequence[Block]
    group: int = 0
    """Models with several kinds of attention cache each kind apart."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks that are cached no longer; where there were several copies, one less."""

    hashes: Sequence[int]
    group: int = 0


@dataclass(frozen=True, slots=True)
class Cleared:
    """Nothing is cached now."""


KvEvent = Stored | Removed | Cleared


@dataclass(frozen=True, slots=True)
class KvBatch:
    """What one rank tells at once."""

    rank: int
    sequence: int
    """Counted by each rank."""
    events: Iterator[KvEvent]
    """To be taken once."""
    load: EngineLoad | None = None
    is_load_only: bool = False
    """No events, and no step of the count."""
    begins_anew: bool = False
    """It clears first, or is part of a picture of all that is cached: what came before is void."""


@runtime_checkable
class TellsOfCache(Protocol):
    """An engine that may tell of its KV cache."""

    def kv_events(self) -> AsyncGenerator[KvBatch, None]:
        """What the cache goes through, for as long as both live.

        Raises:
            NoKvEvents: it does not tell after all.
            EngineError: the stream is lost, and with it what was told.
        """
        ...


def subscribe_request() -> bytes:
    """A request for all that changes from now on, and for what is there if the worker knows."""
    request = pb.SubscribeKvEventsRequest(load_records_before_first_batch=True)
    return request.SerializeToString()


async def read_batches(messages: AsyncGenerator[bytes, None]) -> AsyncGenerator[KvBatch, None]:
    """The batches of a stream.

    Raises:
        NoKvEvents: the worker has no such stream.
        EngineError: the stream failed, or a message cannot be read.
    """
    async with aclosing(messages):
        while (message := await _next(messages)) is not None:
            yield read_batch(message)


async def _next(messages: AsyncGenerator[bytes, None]) -> bytes | None:
    try:
        return await anext(messages, None)
    except WrongEngine as error:
        raise NoKvEvents(error.message) from error


def read_batch(message: bytes) -> KvBatch:
    """One message.

    Raises:
        EngineError: it cannot be read.
    """
    try:
        batch = pb.KvEventBatch.FromString(message)
    except DecodeError as error:
        raise EngineError(f"The worker sent cache events that make no sense: {error}") from error
    told = batch.load if batch.HasField("load") else None
    is_picture = batch.HasField("snapshot")
    return KvBatch(
        rank=batch.dp_rank,
        sequence=batch.sequence_number,
        events=_events(batch.events),
        load=None if told is None else _load(told),
        is_load_only=told is not None and told.load_only,
        begins_anew=is_picture or any(event.HasField("cleared") for event in batch.events[:1]),
    )


def _load(told: pb.EngineLoad) -> EngineLoad:
    return EngineLoad(
        running=told.running_requests,
        waiting=told.waiting_requests,
        token_usage=told.token_usage,
    )


def _events(events: Sequence[pb.KvCacheEvent]) -> Iterator[KvEvent]:
    for event in events:
        match event.WhichOneof("data"):
            case "stored" if _counts(event.stored) and _is_plain(event.stored):
                yield from _stored(event.stored)
            case "removed" if _counts(event.removed) and not event.removed.cache_level:
                for hashes in _sliced(event.removed.block_hashes):
                    yield Removed(hashes, event.removed.group_idx)
            case "cleared" if event.cleared.ownership.lower() != AGENT:
                yield Cleared()


def _counts(event: Any) -> bool:
    """Whether it is about the device's own memory; older engines name the tier otherwise."""
    is_device = event.tier == pb.KV_CACHE_TIER_DEVICE or (
        event.tier == pb.KV_CACHE_TIER_UNSPECIFIED and event.medium.upper() in OWN_WORDS
    )
    is_near = event.locality != pb.KV_CACHE_LOCALITY_REMOTE
    return is_device and is_near and event.ownership.lower() != AGENT


def _is_plain(stored: pb.KvBlocksStored) -> bool:
    """Whether a prompt of tokens alone can find it."""
    is_whole = stored.kv_cache_spec_kind in WHOLE_PREFIX
    has_window = stored.kv_cache_spec_sliding_window > 0
    return is_whole and not has_window and not stored.lora_name and not stored.cache_salt


def _stored(stored: pb.KvBlocksStored) -> Iterator[Stored]:
    parent = stored.parent_block_hash if stored.HasField("parent_block_hash") else None
    for some in _sliced(takewhile(_is_findable, stored.blocks)):
        blocks = [Block(each.block_hash, array("I", each.token_ids).tobytes()) for each in some]
        yield Stored(parent, blocks, stored.group_idx)
        parent = blocks[-1].hash


def _is_findable(block: pb.KvBlock) -> bool:
    is_whole = 0 < block.block_size == len(block.token_ids)
    return is_whole and not (block.lora_id or block.extra_keys or block.cache_level)


def _sliced(things: Iterable[Thing]) -> Iterator[list[Thing]]:
    rest = iter(things)
    while some := list(islice(rest, SLICE)):
        yield some
