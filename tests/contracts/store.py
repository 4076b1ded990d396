"""What any Store must do. A test module imports these and provides the fixture `store`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from smg.errors import (
    Conflict,
    InvalidRequest,
    LeaseLost,
    NotFound,
    PreviousResponseNotFound,
)
from smg.items import FunctionCall, Item, McpCall, Message, Reasoning, TextPart
from smg.storage.base import Store
from smg.storage.records import (
    Conversation,
    EventBatch,
    ItemPage,
    Lease,
    Page,
    PinnedTools,
    Repeated,
    RepeatKey,
    ResponseRecord,
    Step,
    UnfinishedResponse,
    WorkerRecord,
)

ANN, BOB = "ann", "bob"


def said(item_id: str, text: str = "", role: str = "user") -> Message:
    return Message(id=item_id, role=role, parts=(TextPart(text or f"text of {item_id}"),))


def response(
    name: str,
    *,
    after: str | None = None,
    within: str | None = None,
    status: str = "completed",
    created_at: int = 1000,
    items: bool = True,
) -> ResponseRecord:
    """resp_<name> with the input in_<name> and the output out_<name>."""
    return ResponseRecord(
        id=f"resp_{name}",
        owner=ANN,
        model="tiny",
        status=status,
        created_at=created_at,
        previous_response_id=after,
        conversation_id=within,
        body={"object": "response", "status": status, "metadata": {}},
        input=(said(f"in_{name}"),) if items else (),
        output=(said(f"out_{name}", role="assistant"),) if items and status != "queued" else (),
    )


def ids(items: tuple[Item, ...] | ItemPage) -> list[str]:
    return [item.id for item in (items.items if isinstance(items, ItemPage) else items)]


async def chain(store: Store, *names: str) -> None:
    before: str | None = None
    for name in names:
        await store.responses.save(response(name, after=before))
        before = f"resp_{name}"


async def new_conversation(store: Store, *items: str, name: str = "conv_1") -> None:
    conversation = Conversation(id=name, owner=ANN, created_at=1000, metadata={"k": "v"})
    await store.conversations.create(conversation, [said(each) for each in items])


async def begun(store: Store, name: str = "a", *, ttl: float = 60) -> Lease:
    record = response(name, status="in_progress")
    return await store.responses.begin_claimed(replace(record, output=()), "gateway-1", ttl)


# Responses


async def test_a_saved_response_is_read_back_whole(store: Store) -> None:
    record = ResponseRecord(
        id="resp_1",
        owner=ANN,
        model="tiny",
        status="completed",
        created_at=1000,
        background=True,
        body={"metadata": {"k": "v"}, "usage": None, "tools": [{"type": "function"}]},
        input=(said("msg_1", "schön \N{GRINNING FACE} \x00 \ud800"), said("msg_2")),
        output=(
            Reasoning(id="rs_1", text="hm"),
            FunctionCall(id="fc_1", call_id="call_1", name="add", arguments='{"a": 1}'),
            McpCall(id="mcp_1", server_label="math", name="add", output="3"),
        ),
    )
    await store.responses.save(record)
    assert await store.responses.get("resp_1", ANN) == record


async def test_a_response_without_items_is_read_back(store: Store) -> None:
    record = response("a", items=False)
    await store.responses.save(record)
    assert await store.responses.get("resp_a", ANN) == record
    assert await store.responses.history("resp_a", ANN) == ()


async def test_a_begun_response_has_its_input_until_the_rest_is_saved(store: Store) -> None:
    record = response("a", status="queued")
    await store.responses.begin(record)
    assert await store.responses.get("resp_a", ANN) == record
    await store.responses.save(response("a"))
    assert await store.responses.get("resp_a", ANN) == response("a")


async def test_saving_again_while_unfinished_replaces_the_output(store: Store) -> None:
    lease = await begun(store)
    partial = response("a", status="in_progress")
    await store.responses.save(partial, lease=lease)
    assert await store.responses.get("resp_a", ANN) == partial
    longer = replace(partial, output=(*partial.output, said("out_2")))
    await store.responses.save(longer, lease=lease)
    assert await store.responses.get("resp_a", ANN) == longer


async def test_an_id_that_is_taken_cannot_be_begun_or_saved_by_anybody_else(store: Store) -> None:
    await store.responses.begin(response("a", status="queued"))
    with pytest.raises(Conflict):
        await store.responses.begin(response("a", status="queued"))
    with pytest.raises(Conflict):
        await store.responses.save(replace(response("a"), owner=BOB))
    assert await store.responses.get("resp_a", ANN) == response("a", status="queued")


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed", "cancelled"])
async def test_a_finished_response_does_not_change(store: Store, status: str) -> None:
    await store.responses.save(response("a", status=status))
    with pytest.raises(Conflict):
        await store.responses.save(replace(response("a"), output=()))
    assert await store.responses.get("resp_a", ANN) == response("a", status=status)


async def test_a_cancelled_response_still_gets_what_it_had_said(store: Store) -> None:
    await store.responses.begin(response("a", status="queued"))
    assert await store.responses.set_status("resp_a", ANN, {"queued"}, "cancelled")
    await store.responses.save(response("a", status="cancelled"))
    assert await store.responses.get("resp_a", ANN) == response("a", status="cancelled")


async def test_continuing_a_response_that_is_not_stored_is_a_conflict(store: Store) -> None:
    with pytest.raises(Conflict):
        await store.responses.save(response("b", after="resp_a"))


async def test_of_two_status_changes_one_wins(store: Store) -> None:
    await store.responses.begin(response("a", status="queued"))
    changes = [
        store.responses.set_status("resp_a", ANN, {"queued", "in_progress"}, new)
        for new in ("cancelled", "failed")
    ]
    assert sorted(await asyncio.gather(*changes)) == [False, True]


async def test_the_body_follows_the_status(store: Store) -> None:
    await store.responses.begin(response("a", status="queued"))
    assert await store.responses.set_status("resp_a", ANN, {"queued"}, "in_progress")
    record = await store.responses.get("resp_a", ANN)
    assert (record.status, record.body["status"]) == ("in_progress", "in_progress")


# History


async def test_history_is_the_whole_chain_oldest_first(store: Store) -> None:
    await chain(store, "a", "b", "c")
    assert ids(await store.responses.history("resp_c", ANN)) == [
        *("in_a", "out_a", "in_b", "out_b", "in_c", "out_c")
    ]


async def test_branches_do_not_see_each_other(store: Store) -> None:
    await chain(store, "a", "b")
    await store.responses.save(response("c", after="resp_a"))
    assert ids(await store.responses.history("resp_b", ANN)) == ["in_a", "out_a", "in_b", "out_b"]
    assert ids(await store.responses.history("resp_c", ANN)) == ["in_a", "out_a", "in_c", "out_c"]


async def test_a_chain_of_a_thousand_responses_is_read_at_once(store: Store) -> None:
    names = [str(number) for number in range(1000)]
    await chain(store, *names)
    expected = [f"{direction}_{name}" for name in names for direction in ("in", "out")]
    assert ids(await store.responses.history("resp_999", ANN)) == expected
    assert await store.responses.purge_expired(2000, limit=1000) == 2000  # Buried, then removed.
    assert await store.responses.find_items(expected, ANN) == {}


async def test_a_deleted_response_in_the_middle_still_counts(store: Store) -> None:
    await chain(store, "a", "b", "c")
    await store.responses.delete("resp_b", ANN)
    assert ids(await store.responses.history("resp_c", ANN)) == [
        *("in_a", "out_a", "in_b", "out_b", "in_c", "out_c")
    ]
    await assert_unknown(store, "resp_b", ANN)


async def test_an_unfinished_response_cannot_be_continued(store: Store) -> None:
    await store.responses.begin(response("a", status="queued"))
    with pytest.raises(InvalidRequest) as caught:
        await store.responses.history("resp_a", ANN)
    assert caught.value.param == "previous_response_id"


async def test_a_chain_that_starts_in_a_conversation_knows_what_was_said_there(
    store: Store,
) -> None:
    await new_conversation(store, "msg_1")
    await store.responses.save(response("a", within="conv_1"))
    await store.responses.save(response("b", within="conv_1"))
    await store.responses.save(response("c", after="resp_a"))
    assert ids(await store.responses.history("resp_c", ANN)) == [
        *("msg_1", "in_a", "out_a", "in_c", "out_c")
    ]
    page = await store.responses.input_items("resp_b", ANN, Page(order="asc"))
    assert ids(page) == ["msg_1", "in_a", "out_a", "in_b"]


# Input items


async def test_input_items_are_all_that_was_said_before_and_the_input(store: Store) -> None:
    await chain(store, "a", "b")
    page = await store.responses.input_items("resp_b", ANN, Page())
    assert ids(page) == ["in_b", "out_a", "in_a"]
    assert (page.first_id, page.last_id, page.has_more) == ("in_b", "in_a", False)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_of_input_items_add_up_to_the_list(store: Store, order: str) -> None:
    await chain(store, "a", "b", "c")
    read = page_reader(lambda page: store.responses.input_items("resp_c", ANN, page))
    expected = ["in_a", "out_a", "in_b", "out_b", "in_c"]
    assert await read(order) == (expected if order == "asc" else expected[::-1])


async def test_input_that_repeats_an_earlier_item_is_listed_once(store: Store) -> None:
    await chain(store, "a")
    again = replace(response("b", after="resp_a"), input=(said("out_a"), said("in_b")))
    await store.responses.save(again)
    page = await store.responses.input_items("resp_b", ANN, Page(order="asc"))
    assert ids(page) == ["in_a", "out_a", "in_b"]


async def test_a_page_after_an_unknown_item_is_refused(store: Store) -> None:
    await chain(store, "a")
    await new_conversation(store, "msg_1")
    page = Page(after="out_a")  # Its output is not its input.
    with pytest.raises(InvalidRequest) as caught:
        await store.responses.input_items("resp_a", ANN, page)
    assert caught.value.param == "after"
    with pytest.raises(InvalidRequest) as caught:
        await store.conversations.list_items("conv_1", ANN, page)
    assert caught.value.param == "after"


def page_reader(
    fetch: Callable[[Page], Awaitable[ItemPage]],
) -> Callable[[str], Awaitable[list[str]]]:
    """Reads a list in pages of two, as clients do."""

    async def read(order: str) -> list[str]:
        found: list[str] = []
        page = Page(limit=2, order="asc" if order == "asc" else "desc")
        for _ in range(20):
            part = await fetch(page)
            found += ids(part)
            if not part.has_more:
                return found
            assert len(part.items) == page.limit
            page = replace(page, after=part.last_id)
        raise AssertionError("The pages do not end")

    return read


# Items by id


async def test_items_are_found_by_id_wherever_they_live(store: Store) -> None:
    await chain(store, "a")
    await new_conversation(store, "msg_1")
    found = await store.responses.find_items(["in_a", "msg_1", "msg_none"], ANN)
    assert found == {"in_a": said("in_a"), "msg_1": said("msg_1")}


async def test_of_several_items_with_one_id_the_newest_is_found(store: Store) -> None:
    for name, text in (("a", "old"), ("b", "new")):
        await store.responses.save(replace(response(name), input=(said("msg_1", text),)))
    assert await store.responses.find_items(["msg_1"], ANN) == {"msg_1": said("msg_1", "new")}


async def test_items_of_a_deleted_response_are_not_found(store: Store) -> None:
    await chain(store, "a", "b")
    await store.responses.delete("resp_a", ANN)
    assert list(await store.responses.find_items(["in_a", "in_b"], ANN)) == ["in_b"]


async def test_any_number_of_ids_can_be_asked_for(store: Store) -> None:
    await chain(store, "a")
    many = [f"msg_{number}" for number in range(2000)]
    assert list(await store.responses.find_items([*many, "in_a"], ANN)) == ["in_a"]


# Deleting and expiry


async def assert_unknown(store: Store, response_id: str, owner: str) -> None:
    """The response cannot be reached in any way."""
    for use in (
        store.responses.get(response_id, owner),
        store.responses.input_items(response_id, owner, Page()),
        store.responses.delete(response_id, owner),
        store.responses.request_cancel(response_id, owner),
        store.journal.events(response_id, owner),
        store.journal.steps(response_id, owner),
    ):
        with pytest.raises(NotFound) as caught:
            await use
        assert caught.value.message == f"Response with id {response_id!r} not found"
    with pytest.raises(PreviousResponseNotFound) as continued:
        await store.responses.history(response_id, owner)
    assert continued.value.param == "previous_response_id"
    everything = {"queued", "in_progress", "completed"}
    assert not await store.responses.set_status(response_id, owner, everything, "failed")
    assert await store.journal.claim(response_id, owner, "gateway-9", 60) is None


async def test_a_deleted_response_is_unknown(store: Store) -> None:
    await chain(store, "a")
    await store.responses.delete("resp_a", ANN)
    await assert_unknown(store, "resp_a", ANN)


async def test_a_run_whose_response_is_deleted_cannot_bring_it_back(store: Store) -> None:
    lease = await begun(store)
    await store.responses.begin(response("b", status="queued"))
    await store.responses.delete("resp_a", ANN)
    await store.responses.delete("resp_b", ANN)
    with pytest.raises(LeaseLost):
        await store.responses.save(response("a"), lease=lease)
    with pytest.raises(Conflict):
        await store.responses.save(response("b"))
    await assert_unknown(store, "resp_a", ANN)
    await assert_unknown(store, "resp_b", ANN)


async def purge(store: Store, before: int) -> int:
    passes = 0
    while await store.responses.purge_expired(before, limit=3):
        passes += 1
        assert passes < 20
    return passes


async def test_expired_responses_go_but_not_what_live_ones_continue(store: Store) -> None:
    for number, name in enumerate("abcdefg"):
        before = f"resp_{'abcdefg'[number - 1]}" if number else None
        await store.responses.save(response(name, after=before, created_at=1000 + number))
    await purge(store, before=1005)
    for name in "abcde":
        await assert_unknown(store, f"resp_{name}", ANN)
    history = await store.responses.history("resp_g", ANN)
    assert ids(history) == [f"{where}_{name}" for name in "abcdefg" for where in ("in", "out")]

    await purge(store, before=2000)
    everything = [f"{where}_{name}" for name in "abcdefg" for where in ("in", "out")]
    assert await store.responses.find_items(everything, ANN) == {}
    assert await purge(store, before=2000) == 0


async def test_unfinished_responses_do_not_expire(store: Store) -> None:
    await store.responses.begin(response("a", status="queued", created_at=1))
    assert await purge(store, before=2000) == 0
    assert await store.responses.get("resp_a", ANN) == response("a", status="queued", created_at=1)


async def test_items_of_a_conversation_survive_the_response_that_made_them(store: Store) -> None:
    await new_conversation(store)
    await store.responses.save(response("a", within="conv_1"))
    await store.responses.save(response("b", within="conv_1", created_at=1))
    await store.responses.delete("resp_a", ANN)
    await purge(store, before=2)
    assert ids(await store.conversations.items("conv_1", ANN)) == [
        *("in_a", "out_a", "in_b", "out_b")
    ]


# Conversations


async def test_a_conversation_is_read_back(store: Store) -> None:
    await new_conversation(store, "msg_1", "msg_2")
    conversation = Conversation(id="conv_1", owner=ANN, created_at=1000, metadata={"k": "v"})
    assert await store.conversations.get("conv_1", ANN) == conversation
    assert await store.conversations.items("conv_1", ANN) == (said("msg_1"), said("msg_2"))
    assert await store.conversations.item("conv_1", ANN, "msg_2") == said("msg_2")
    changed = replace(conversation, metadata={"x": "y"})
    assert await store.conversations.update_metadata("conv_1", ANN, {"x": "y"}) == changed
    assert await store.conversations.get("conv_1", ANN) == changed


async def test_a_conversation_id_that_is_taken_is_a_conflict(store: Store) -> None:
    await new_conversation(store, "msg_1")
    with pytest.raises(Conflict):
        await new_conversation(store, "msg_2")
    assert ids(await store.conversations.items("conv_1", ANN)) == ["msg_1"]


async def test_items_are_appended_in_the_order_given(store: Store) -> None:
    await new_conversation(store, "msg_1")
    await store.conversations.add_items("conv_1", ANN, [said("msg_3"), said("msg_2")])
    assert ids(await store.conversations.items("conv_1", ANN)) == ["msg_1", "msg_3", "msg_2"]


async def test_items_added_at_the_same_time_are_all_there(store: Store) -> None:
    await new_conversation(store)
    await asyncio.gather(
        *(
            store.conversations.add_items("conv_1", ANN, [said(f"a_{n}"), said(f"b_{n}")])
            for n in range(10)
        )
    )
    found = ids(await store.conversations.items("conv_1", ANN))
    assert sorted(found) == sorted(f"{x}_{n}" for x in "ab" for n in range(10))
    for n in range(10):
        assert found.index(f"b_{n}") == found.index(f"a_{n}") + 1


@pytest.mark.parametrize("new", [["msg_2", "msg_1"], ["msg_2", "msg_2"]])
async def test_items_whose_id_is_not_new_are_refused_together(store: Store, new: list[str]) -> None:
    await new_conversation(store, "msg_1")
    with pytest.raises(InvalidRequest) as caught:
        await store.conversations.add_items("conv_1", ANN, [said(each) for each in new])
    assert caught.value.param == "items"
    assert ids(await store.conversations.items("conv_1", ANN)) == ["msg_1"]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_of_a_conversation_add_up_to_it(store: Store, order: str) -> None:
    names = [f"msg_{number}" for number in range(5)]
    await new_conversation(store, *names)
    read = page_reader(lambda page: store.conversations.list_items("conv_1", ANN, page))
    assert await read(order) == (names if order == "asc" else names[::-1])


async def test_a_page_that_ends_with_the_list_says_so(store: Store) -> None:
    await new_conversation(store, "msg_1", "msg_2")
    page = await store.conversations.list_items("conv_1", ANN, Page(limit=2))
    assert (ids(page), page.has_more) == (["msg_2", "msg_1"], False)
    end = await store.conversations.list_items("conv_1", ANN, Page(limit=2, after="msg_1"))
    assert end == ItemPage((), has_more=False)
    assert (end.first_id, end.last_id) == (None, None)


async def test_a_deleted_item_is_gone_from_the_conversation_only(store: Store) -> None:
    await new_conversation(store, "msg_1")
    await store.responses.save(response("a", within="conv_1"))
    conversation = await store.conversations.delete_item("conv_1", ANN, "in_a")
    assert conversation == await store.conversations.get("conv_1", ANN)
    assert ids(await store.conversations.items("conv_1", ANN)) == ["msg_1", "out_a"]
    assert ids((await store.responses.get("resp_a", ANN)).input) == ["in_a"]
    with pytest.raises(NotFound):
        await store.conversations.item("conv_1", ANN, "in_a")
    with pytest.raises(NotFound):
        await store.conversations.delete_item("conv_1", ANN, "in_a")


async def test_responses_survive_their_conversation(store: Store) -> None:
    await new_conversation(store, "msg_1")
    record = response("a", within="conv_1")
    await store.responses.save(record)
    await store.conversations.delete("conv_1", ANN)
    assert await store.responses.get("resp_a", ANN) == record
    assert ids(await store.responses.history("resp_a", ANN)) == ["in_a", "out_a"]
    assert await store.responses.find_items(["msg_1"], ANN) == {}
    await assert_no_conversation(store, "conv_1", ANN)


async def assert_no_conversation(store: Store, conversation_id: str, owner: str) -> None:
    """The conversation cannot be reached in any way."""
    conversations = store.conversations
    for use in (
        conversations.get(conversation_id, owner),
        conversations.update_metadata(conversation_id, owner, {}),
        conversations.delete(conversation_id, owner),
        conversations.add_items(conversation_id, owner, [said("msg_9")]),
        conversations.add_items(conversation_id, owner, []),
        conversations.items(conversation_id, owner),
        conversations.list_items(conversation_id, owner, Page()),
        conversations.item(conversation_id, owner, "msg_1"),
        conversations.delete_item(conversation_id, owner, "msg_1"),
        conversations.lock(conversation_id, owner, "resp_9", 60),
    ):
        with pytest.raises(NotFound) as caught:
            await use
        assert caught.value.message == f"Conversation with id {conversation_id!r} not found"
    await conversations.unlock(conversation_id, owner, "resp_1")


# Turns in a conversation


@pytest.mark.parametrize("status", ["completed", "incomplete"])
async def test_a_turn_that_ended_joins_its_conversation(store: Store, status: str) -> None:
    await new_conversation(store, "msg_1")
    await store.responses.save(response("a", within="conv_1", status=status))
    assert ids(await store.conversations.items("conv_1", ANN)) == ["msg_1", "in_a", "out_a"]


@pytest.mark.parametrize("status", ["in_progress", "failed", "cancelled"])
async def test_a_turn_that_did_not_end_well_leaves_no_trace(store: Store, status: str) -> None:
    await new_conversation(store, "msg_1")
    await store.responses.save(response("a", within="conv_1", status=status))
    assert ids(await store.conversations.items("conv_1", ANN)) == ["msg_1"]


async def test_a_turn_can_be_saved_without_joining_its_conversation(store: Store) -> None:
    await new_conversation(store, "msg_1")
    record = response("a", within="conv_1")
    await store.responses.save(record, append_to_conversation=False)
    assert ids(await store.conversations.items("conv_1", ANN)) == ["msg_1"]
    assert await store.responses.get("resp_a", ANN) == record


async def test_a_begun_turn_joins_its_conversation_when_it_ends(store: Store) -> None:
    await new_conversation(store, "msg_1")
    await store.responses.begin(response("a", within="conv_1", status="queued"))
    assert ids(await store.conversations.items("conv_1", ANN)) == ["msg_1"]
    await store.responses.save(response("a", within="conv_1"))
    assert ids(await store.conversations.items("conv_1", ANN)) == ["msg_1", "in_a", "out_a"]


async def test_an_item_that_is_there_already_stays_where_it_is(store: Store) -> None:
    await new_conversation(store, "msg_1", "msg_2")
    record = replace(response("a", within="conv_1"), input=(said("msg_1"), said("msg_2", "new")))
    await store.responses.save(record)
    items = await store.conversations.items("conv_1", ANN)
    assert items == (said("msg_1"), said("msg_2"), said("msg_2", "new"), *record.output)
    assert await store.conversations.item("conv_1", ANN, "msg_2") == said("msg_2", "new")


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_an_id_used_for_two_items_does_not_make_a_reader_circle(
    store: Store, order: str
) -> None:
    await new_conversation(store, "msg_1", "msg_2")
    await store.responses.save(
        replace(response("a", within="conv_1"), input=(said("msg_2", "new"),))
    )
    read = page_reader(lambda page: store.conversations.list_items("conv_1", ANN, page))
    assert len(await read(order)) <= 4


async def test_a_turn_whose_conversation_is_deleted_meanwhile_is_saved(store: Store) -> None:
    await new_conversation(store, "msg_1")
    await store.responses.begin(response("a", within="conv_1", status="queued"))
    await store.conversations.delete("conv_1", ANN)
    await store.responses.save(response("a", within="conv_1"))
    assert await store.responses.get("resp_a", ANN) == response("a", within="conv_1")


async def test_a_conversation_is_held_by_one_turn(store: Store) -> None:
    await new_conversation(store)
    await store.conversations.lock("conv_1", ANN, "resp_a", 60)
    await store.conversations.lock("conv_1", ANN, "resp_a", 60)  # Again by the same: renewed.
    with pytest.raises(Conflict) as caught:
        await store.conversations.lock("conv_1", ANN, "resp_b", 60)
    assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")
    await store.conversations.unlock("conv_1", ANN, "resp_b")  # Not theirs to give back.
    with pytest.raises(Conflict):
        await store.conversations.lock("conv_1", ANN, "resp_b", 60)
    await store.conversations.unlock("conv_1", ANN, "resp_a")
    await store.conversations.lock("conv_1", ANN, "resp_b", 60)


async def test_of_turns_that_want_a_conversation_at_once_one_gets_it(store: Store) -> None:
    await new_conversation(store)
    wanted = [store.conversations.lock("conv_1", ANN, f"resp_{n}", 60) for n in range(8)]
    results = await asyncio.gather(*wanted, return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 7


async def test_a_turn_cannot_join_a_conversation_that_another_holds(store: Store) -> None:
    await new_conversation(store)
    await store.conversations.lock("conv_1", ANN, "resp_a", 0)  # It took too long.
    await store.conversations.lock("conv_1", ANN, "resp_b", 60)
    with pytest.raises(Conflict) as caught:
        await store.responses.save(response("a", within="conv_1"))
    assert caught.value.code == "conversation_locked"
    with pytest.raises(NotFound):
        await store.responses.get("resp_a", ANN)
    await store.responses.save(response("b", within="conv_1"))
    assert ids(await store.conversations.items("conv_1", ANN)) == ["in_b", "out_b"]


# Leases


async def test_a_response_is_claimed_by_one_gateway(store: Store) -> None:
    await store.responses.begin(response("a", status="queued"))
    claims = [store.journal.claim("resp_a", ANN, f"gateway-{n}", 60) for n in range(8)]
    leases = [lease for lease in await asyncio.gather(*claims) if lease is not None]
    assert len(leases) == 1
    assert leases[0].attempt == 1
    await store.journal.release(leases[0])
    # To be handed over costs no attempt: those count deaths.
    second = await store.journal.claim("resp_a", ANN, "gateway-9", 60)
    assert second == Lease(response_id="resp_a", owner=ANN, holder="gateway-9", attempt=1)


@pytest.mark.parametrize("second_holder", ["gateway-1", "gateway-2"])
async def test_who_slept_through_the_end_of_his_lease_cannot_write(
    store: Store, second_holder: str
) -> None:
    stale = await begun(store, ttl=0)
    lease = await store.journal.claim("resp_a", ANN, second_holder, 60)
    assert lease == Lease(response_id="resp_a", owner=ANN, holder=second_holder, attempt=2)
    for write in (
        store.responses.save(response("a"), lease=stale),
        store.responses.save(response("a")),
        store.journal.append_step(stale, Step(number=0, kind="stale", state={})),
        store.journal.renew(stale, 60),
    ):
        with pytest.raises(LeaseLost):
            await write
    assert await store.journal.append_events([(stale, EventBatch(0, [b"stale"]))]) == [False]
    await store.journal.release(stale)  # Not theirs to give back.
    assert await store.journal.events("resp_a", ANN) == []
    assert await store.journal.steps("resp_a", ANN) == []
    assert await store.journal.renew(lease, 60) is False
    await store.responses.save(response("a"), lease=lease)
    assert await store.responses.get("resp_a", ANN) == response("a")


async def test_a_lease_that_ran_out_still_writes_while_nobody_else_has_claimed(
    store: Store,
) -> None:
    lease = await begun(store, ttl=0)
    await store.journal.append_events([(lease, EventBatch(0, [b"late"]))])
    assert await store.journal.renew(lease, 60) is False
    assert await store.journal.claim("resp_a", ANN, "gateway-2", 60) is None


async def test_a_finished_response_is_nobodys(store: Store) -> None:
    lease = await begun(store)
    await store.responses.save(response("a"), lease=lease)
    assert await store.journal.append_events([(lease, EventBatch(0, [b"late"]))]) == [False]
    assert await store.journal.claim("resp_a", ANN, "gateway-1", 60) is None


async def test_a_final_status_takes_the_lease_away(store: Store) -> None:
    lease = await begun(store)
    assert await store.responses.set_status("resp_a", ANN, {"in_progress"}, "cancelled")
    with pytest.raises(LeaseLost):
        await store.responses.save(response("a"), lease=lease)


async def test_who_works_on_a_response_hears_of_a_request_to_cancel(store: Store) -> None:
    lease = await begun(store)
    assert await store.journal.renew(lease, 60) is False
    await store.responses.request_cancel("resp_a", ANN)
    assert await store.journal.renew(lease, 60) is True
    await store.responses.save(response("a"), lease=lease)
    await store.responses.request_cancel("resp_a", ANN)  # Too late, and no error.


async def test_unfinished_responses_that_nobody_holds_are_listed_oldest_first(
    store: Store,
) -> None:
    await begun(store, "held")
    await begun(store, "dropped", ttl=0)
    await store.responses.begin(response("older", status="queued", created_at=1))
    await store.responses.save(response("finished"))
    await store.responses.request_cancel("resp_dropped", ANN)
    assert await store.journal.unfinished() == [
        UnfinishedResponse(
            id="resp_older",
            owner=ANN,
            status="queued",
            background=False,
            attempt=0,
            cancel_requested=False,
        ),
        UnfinishedResponse(
            id="resp_dropped",
            owner=ANN,
            status="in_progress",
            background=False,
            attempt=1,
            cancel_requested=True,
        ),
    ]
    assert len(await store.journal.unfinished(limit=1)) == 1


# Events, steps, keys


async def test_events_are_replayed_byte_by_byte_from_any_place(store: Store) -> None:
    lease = await begun(store)
    frames = [b"event: a\n\n", b"\x00\xff", "ü".encode(), b""]
    await store.journal.append_events([(lease, EventBatch(0, frames[:1]))])
    await store.journal.append_events([(lease, EventBatch(1, []))])
    await store.journal.append_events([(lease, EventBatch(1, frames[1:3]))])
    await store.responses.save(response("a"), lease=lease, events=EventBatch(3, frames[3:]))
    assert await store.journal.events("resp_a", ANN) == list(enumerate(frames))
    assert await store.journal.events("resp_a", ANN, after=1) == list(enumerate(frames))[2:]
    assert await store.journal.events("resp_a", ANN, after=0, limit=2) == [
        (1, frames[1]),
        (2, frames[2]),
    ]
    assert await store.journal.events("resp_a", ANN, after=9) == []


async def test_a_sequence_number_is_given_once(store: Store) -> None:
    lease = await begun(store)
    await store.journal.append_events([(lease, EventBatch(0, [b"a", b"b"]))])
    with pytest.raises(Conflict):
        await store.journal.append_events([(lease, EventBatch(1, [b"x", b"y"]))])
    with pytest.raises(Conflict):
        await store.responses.save(response("a"), lease=lease, events=EventBatch(0, [b"x"]))
    assert await store.journal.events("resp_a", ANN) == [(0, b"a"), (1, b"b")]
    assert (await store.responses.get("resp_a", ANN)).status == "in_progress"


async def test_steps_are_read_back_in_order(store: Store) -> None:
    lease = await begun(store)
    steps = [Step(number=n, kind="call", state={"n": n, "text": "ü\ud800"}) for n in range(3)]
    for step in (steps[1], steps[0], steps[2]):
        await store.journal.append_step(lease, step)
    assert await store.journal.steps("resp_a", ANN) == steps
    with pytest.raises(Conflict):
        await store.journal.append_step(lease, steps[0])


async def test_a_repeated_request_gets_the_first_response(store: Store) -> None:
    journal = store.journal
    assert await journal.remember_key(ANN, "key", "hash", "resp_1") is None
    assert await journal.remember_key(ANN, "key", "hash", "resp_2") == "resp_1"
    assert await journal.remember_key(BOB, "key", "other", "resp_3") is None
    with pytest.raises(Conflict) as caught:
        await journal.remember_key(ANN, "key", "other", "resp_4")
    assert caught.value.code == "idempotency_key_reused"
    await journal.forget_key(ANN, "key", "resp_2")  # Not bound to it: nothing happens.
    assert await journal.remember_key(ANN, "key", "hash", "resp_2") == "resp_1"
    await journal.forget_key(ANN, "key", "resp_1")
    assert await journal.remember_key(ANN, "key", "other", "resp_5") is None
    assert await journal.remember_key(BOB, "key", "other", "resp_6") == "resp_3"


async def test_a_response_and_its_key_are_stored_together_or_not_at_all(store: Store) -> None:
    async def begin(name: str, asked: str) -> Lease:
        record = replace(response(name, status="in_progress"), output=())
        key = RepeatKey("key", asked)
        return await store.responses.begin_claimed(record, "gateway-1", 60, key=key)

    assert (await begin("a", "hash")).response_id == "resp_a"
    with pytest.raises(Repeated) as caught:
        await begin("b", "hash")
    assert caught.value.response_id == "resp_a"
    with pytest.raises(Conflict) as refused:
        await begin("c", "other")
    assert refused.value.code == "idempotency_key_reused"
    for name in ("resp_b", "resp_c"):
        with pytest.raises(NotFound):
            await store.responses.get(name, ANN)


async def test_idempotency_keys_expire(store: Store) -> None:
    assert await store.journal.remember_key(ANN, "key", "hash", "resp_1") is None
    await purge(store, before=2000)
    assert await store.journal.remember_key(ANN, "key", "hash", "resp_2") == "resp_1"
    await purge(store, before=2**40)
    assert await store.journal.remember_key(ANN, "key", "hash", "resp_3") is None


# Owners


async def test_what_belongs_to_somebody_else_is_not_there(store: Store) -> None:
    await new_conversation(store, "msg_1")
    await store.conversations.lock("conv_1", ANN, "resp_1", 60)
    await store.responses.save(response("a"))
    lease = await begun(store, "b")
    await store.journal.append_events([(lease, EventBatch(0, [b"secret"]))])
    await store.journal.append_step(lease, Step(number=0, kind="secret", state={}))

    await assert_unknown(store, "resp_a", BOB)
    await assert_unknown(store, "resp_b", BOB)
    await assert_no_conversation(store, "conv_1", BOB)
    assert await store.responses.find_items(["in_a", "msg_1"], BOB) == {}
    with pytest.raises(LeaseLost):
        await store.journal.renew(replace(lease, owner=BOB), 60)
    stolen = replace(response("c", within="conv_1"), owner=BOB)
    await store.responses.save(stolen)

    assert await store.journal.renew(lease, 60) is False
    assert await store.responses.get("resp_a", ANN) == response("a")
    assert ids(await store.conversations.items("conv_1", ANN)) == ["msg_1"]
    assert ids(await store.responses.history("resp_c", BOB)) == ["in_c", "out_c"]


async def test_a_chain_does_not_reach_into_somebody_elses_responses(store: Store) -> None:
    await store.responses.save(response("a"))
    await store.responses.save(replace(response("b", after="resp_a"), owner=BOB))
    assert ids(await store.responses.history("resp_b", BOB)) == ["in_b", "out_b"]


async def test_workers_are_remembered_once_until_they_are_forgotten(store: Store) -> None:
    first, second = WorkerRecord(url="grpc://a:1"), WorkerRecord(url="grpc://b:1")
    for record in (second, first, second):
        await store.workers.add(record)
    assert await store.workers.all() == [first, second]
    await store.workers.remove("grpc://b:1")
    await store.workers.remove("grpc://b:1")
    assert await store.workers.all() == [first]


async def test_what_is_said_of_a_worker_is_what_was_said_last(store: Store) -> None:
    said = {"labels": {"zone": "\ud800"}, "cost": 0.5}
    kept = WorkerRecord(url="http://a:1", description=said, sealed_key="sealed")
    await store.workers.add(kept)
    await store.workers.change(WorkerRecord(url="http://b:1", description=said))
    assert await store.workers.all() == [kept]
    await store.workers.change(WorkerRecord(url="http://a:1", description={"cost": 2.0}))
    assert await store.workers.all() == [replace(kept, description={"cost": 2.0})]
    await store.workers.change(replace(kept, sealed_key="other"))
    assert await store.workers.all() == [replace(kept, sealed_key="other")]
    await store.workers.add(WorkerRecord(url="http://a:1"))
    assert await store.workers.all() == [WorkerRecord(url="http://a:1")]


async def pin(store: Store, label: str, identity: str, pinned: PinnedTools) -> None:
    await store.pins.pin(
        label,
        identity,
        digest=pinned.digest,
        tools=pinned.tools,
        approved_at=pinned.approved_at,
    )


async def test_the_tools_agreed_to_last_are_kept_for_each_server_of_a_label(store: Store) -> None:
    first = PinnedTools(digest="d1", tools={"a": "1", "b": "2"}, approved_at=10)
    second = PinnedTools(digest="d2", tools={"ä": "3"}, approved_at=20)
    assert await store.pins.pinned("search", "here") is None
    await pin(store, "search", "here", first)
    await pin(store, "search", "elsewhere", second)
    await pin(store, "other", "here", second)
    assert await store.pins.pinned("search", "here") == first
    await pin(store, "search", "here", second)
    assert await store.pins.pinned("search", "here") == second
    await pin(store, "search", "here", first)
    assert await store.pins.pinned("search", "here") == first
    assert await store.pins.pinned("search", "elsewhere") == second


async def test_tools_pinned_by_several_at_one_time_are_those_of_one(store: Store) -> None:
    pins = [PinnedTools(digest=f"d{n}", tools={"a": str(n)}, approved_at=n) for n in range(8)]
    await asyncio.gather(*(pin(store, "search", "here", pinned) for pinned in pins))
    assert await store.pins.pinned("search", "here") in pins
