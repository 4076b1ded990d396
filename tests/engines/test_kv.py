"""What engines tell of their KV caches: over the published messages, and field by field."""

from array import array
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from smg.engines._generated import common_pb2 as pb
from smg.engines.base import EngineLoad
from smg.engines.kv import (
    SLICE,
    Block,
    Cleared,
    KvBatch,
    KvEvent,
    NoKvEvents,
    Removed,
    Stored,
    read_batch,
)
from smg.errors import EngineError
from tests.contracts.engine import engine_at
from tests.contracts.speech import MLX, SGLANG, TOKENSPEED, TRTLLM, VLLM, Speech
from tests.engines.stand_in import Process, directing

Processes = Callable[[str], Process]
Json = dict[str, Any]


def block(name: int, *tokens: int, **fields: Any) -> Json:
    return {"block_hash": name, "token_ids": tokens, "block_size": len(tokens), **fields}


def known(name: int, *tokens: int) -> Block:
    return Block(name, array("I", tokens).tobytes())


def events(*told: Json) -> list[KvEvent]:
    message = ParseDict({"events": told}, pb.KvEventBatch())
    return list(read_batch(message.SerializeToString()).events)


def stored(*blocks: Json, **fields: Any) -> Json:
    return {"stored": {"blocks": blocks or [block(1, 5, 6)], **fields}}


TOLD = [
    {"sequence_number": 0, "load": {"load_only": True, "running_requests": 2}},
    {
        "sequence_number": 7,
        "dp_rank": 1,
        "events": [
            stored(block(-1, 5, 6), block(2, 7, 8)),
            stored(block(3, 9, 10), parent_block_hash=2, tier="KV_CACHE_TIER_DEVICE"),
            {"removed": {"block_hashes": [3, 2]}},
            {"cleared": {}},
        ],
        "load": {"running_requests": 3, "waiting_requests": 1, "token_usage": 0.5},
    },
    {"sequence_number": 8, "events": [{"cleared": {}}, stored()], "snapshot": {"count": 1}},
]


def taken(batch: KvBatch) -> tuple[Any, ...]:
    said = (batch.rank, batch.sequence, batch.load, batch.is_load_only, batch.begins_anew)
    return (*said, list(batch.events))


@pytest.mark.parametrize(
    "speech", [VLLM, SGLANG, TOKENSPEED, TRTLLM], ids=lambda speech: speech.engine
)
async def test_the_published_messages_are_read(speech: Speech, stand_in_process: Processes) -> None:
    async with (
        directing(stand_in_process(speech.module)) as stand_in,
        engine_at(stand_in, speech) as engine,
    ):
        await stand_in.play(
            answers={**speech.answers(), "SubscribeKvEvents": TOLD},
            statuses={"SubscribeKvEvents": "DATA_LOSS"},
        )
        batches = engine.kv_events()
        found = [taken(await anext(batches)) for _ in TOLD]
        with pytest.raises(EngineError) as lost:
            await anext(batches)
        assert not isinstance(lost.value, NoKvEvents)
        assert found == [
            (0, 0, EngineLoad(running=2), True, False, []),
            (
                1,
                7,
                EngineLoad(running=3, waiting=1, token_usage=0.5),
                False,
                False,
                [
                    Stored(None, [known(-1, 5, 6), known(2, 7, 8)]),
                    Stored(2, [known(3, 9, 10)]),
                    Removed([3, 2]),
                    Cleared(),
                ],
            ),
            (0, 8, None, False, True, [Cleared(), Stored(None, [known(1, 5, 6)])]),
        ]
        request = await stand_in.heard("SubscribeKvEvents")
        assert request == {"load_records_before_first_batch": True}


@pytest.mark.parametrize("speech", [VLLM, MLX], ids=lambda speech: speech.engine)
async def test_who_does_not_tell_of_its_cache_is_known(
    speech: Speech, stand_in_process: Processes
) -> None:
    async with (
        directing(stand_in_process(speech.module)) as stand_in,
        engine_at(stand_in, speech) as engine,
    ):
        await stand_in.play(answers=speech.answers())
        with pytest.raises(NoKvEvents):
            await anext(engine.kv_events())


@pytest.mark.parametrize(
    "fields",
    [
        {"tier": "KV_CACHE_TIER_HOST"},
        {"tier": "KV_CACHE_TIER_EXTERNAL"},
        {"medium": "CPU"},
        {"locality": "KV_CACHE_LOCALITY_REMOTE"},
        {"ownership": "KVCR"},
        {"lora_name": "poet"},
        {"cache_salt": "s"},
        {"kv_cache_spec_kind": "sliding_window"},
        {"kv_cache_spec_kind": "full_attention", "kv_cache_spec_sliding_window": 128},
        {"kv_cache_spec_kind": "mamba"},
    ],
    ids=str,
)
def test_blocks_that_no_plain_prompt_finds_are_left_out(fields: Json) -> None:
    assert events(stored(**fields)) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"tier": "KV_CACHE_TIER_DEVICE", "medium": "GPU", "locality": "KV_CACHE_LOCALITY_LOCAL"},
        {"medium": "GPU", "ownership": "engine", "session_id": "x"},
        {"kv_cache_spec_kind": "mla_attention", "group_idx": 0},
    ],
    ids=str,
)
def test_blocks_in_the_devices_own_memory_count(fields: Json) -> None:
    assert events(stored(**fields)) == [Stored(None, [known(1, 5, 6)])]


@pytest.mark.parametrize(
    "other",
    [
        {"lora_id": 1},
        {"cache_level": 1},
        {"extra_keys": [{"multimodal": {"identifier": "cat"}}]},
        {"block_size": 3},
    ],
    ids=str,
)
def test_what_follows_a_block_that_does_not_count_is_left_out_too(other: Json) -> None:
    blocks = [block(1, 5, 6), {**block(2, 7, 8), **other}, block(3, 9, 10)]
    assert events(stored(*blocks)) == [Stored(None, [known(1, 5, 6)])]


@pytest.mark.parametrize("fields", [{"tier": "KV_CACHE_TIER_DISK"}, {"cache_level": 1}], ids=str)
def test_a_removal_from_elsewhere_leaves_the_devices_copy(fields: Json) -> None:
    assert events({"removed": {"block_hashes": [1], **fields}}) == []


def test_the_group_of_a_model_with_several_caches_is_told() -> None:
    told = events(stored(group_idx=2), {"removed": {"block_hashes": [1], "group_idx": 2}})
    assert told == [Stored(None, [known(1, 5, 6)], group=2), Removed([1], group=2)]


def test_an_agent_that_clears_its_own_cache_clears_nothing_of_the_engines() -> None:
    assert events({"cleared": {"ownership": "kvcr"}}, {"cleared": {"ownership": "engine"}}) == [
        Cleared()
    ]


def test_a_long_event_comes_in_slices_that_hang_together() -> None:
    blocks = [block(number, number) for number in range(2 * SLICE + 1)]
    told = events(
        stored(*blocks, parent_block_hash=9), {"removed": {"block_hashes": [*range(SLICE + 1)]}}
    )
    sizes = [(e.parent, len(e.blocks)) for e in told if isinstance(e, Stored)]
    assert sizes == [(9, SLICE), (SLICE - 1, SLICE), (2 * SLICE - 1, 1)]
    assert [len(e.hashes) for e in told if isinstance(e, Removed)] == [SLICE, 1]


def test_what_is_no_batch_is_an_error() -> None:
    with pytest.raises(EngineError, match="make no sense"):
        read_batch(b"\xff")
