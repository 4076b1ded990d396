"""What the gateway asks of storage, as protocols of use cases.

Every use case that a client can reach takes the `owner` and filters by it in the query itself;
what belongs to somebody else is missing, with the same error. What a run writes while it works
is guarded by its `Lease`. Knows no database.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from smg.items import Item
from smg.storage.records import (
    Conversation,
    EventBatch,
    ItemPage,
    Lease,
    Page,
    PendingApproval,
    PinnedTools,
    RepeatKey,
    ResponseRecord,
    Step,
    UnfinishedResponse,
    WorkerRecord,
)


class ResponseStore(Protocol):
    """Keeps responses and their items. What `save` has returned from survives a crash."""

    async def begin(self, record: ResponseRecord) -> None:
        """Store an unfinished response with its input, for anybody to claim.

        Raises:
            Conflict: the id is taken, or the previous response went away.
        """
        ...

    async def begin_claimed(
        self,
        record: ResponseRecord,
        holder: str,
        ttl: float,
        step: Step | None = None,
        key: RepeatKey | None = None,
    ) -> Lease:
        """Store an unfinished response that this holder works on, with its first step and its key.

        All or nothing: a key has a response, and a response that was asked for with one has it.

        Raises:
            Conflict: as for `begin`, and as for `remember_key`.
            Repeated: the key already has a response.
        """
        ...

    async def save(
        self,
        record: ResponseRecord,
        *,
        lease: Lease | None = None,
        events: EventBatch | None = None,
        append_to_conversation: bool = True,
    ) -> None:
        """Store a response as it is now: row, items, last events, conversation, or nothing.

        Works with and without `begin` before it. A completed or incomplete turn's input and
        output join its conversation, under the same ids; an item that is there already stays
        where it is. A finished response is given up by its lease and not changed again, but a
        cancelled one may be saved as cancelled with what it had said so far.

        Raises:
            Conflict: it is finished already, or another turn holds the conversation.
            LeaseLost: somebody else has claimed the response.
        """
        ...

    async def get(self, response_id: str, owner: str) -> ResponseRecord:
        """The response with its own input and output.

        Raises:
            NotFound: there is none, it was deleted, or it is somebody else's.
        """
        ...

    async def history(self, response_id: str, owner: str) -> tuple[Item, ...]:
        """Everything said up to and including this response, oldest first.

        Deleted and expired responses before it still count.

        Raises:
            PreviousResponseNotFound: there is none, it was deleted, or it is somebody else's.
            InvalidRequest: it is not finished.
        """
        ...

    async def input_items(self, response_id: str, owner: str, page: Page) -> ItemPage:
        """What the response was made from: all that was said before, then its own input.

        An id that occurs several times is listed once, where it came first.

        Raises:
            NotFound: as for `get`.
            InvalidRequest: `after` names no item of the list.
        """
        ...

    async def find_items(self, ids: Collection[str], owner: str) -> dict[str, Item]:
        """The items of these ids that the owner has stored; of several, the newest."""
        ...

    async def delete(self, response_id: str, owner: str) -> None:
        """Make the response unknown; responses that continue it, and its conversation, stay.

        Raises:
            NotFound: as for `get`.
        """
        ...

    async def set_status(
        self, response_id: str, owner: str, expected: Collection[str], new: str
    ) -> bool:
        """Change the status if it is one of the expected: of several callers, one wins.

        A final status takes the lease away.
        """
        ...

    async def request_cancel(self, response_id: str, owner: str) -> None:
        """Ask whoever works on an unfinished response to stop; `renew` tells them.

        Raises:
            NotFound: as for `get`.
        """
        ...

    async def purge_expired(self, before: int, limit: int = 500) -> int:
        """Forget finished responses made before this time; of all owners, one batch a call.

        What live responses continue is made unknown and removed later. Returns how many rows
        were changed: 0 means that nothing is left to do.
        """
        ...


class ConversationStore(Protocol):
    """Keeps conversations. Responses that were made in one survive it."""

    async def create(self, conversation: Conversation, items: Sequence[Item] = ()) -> None:
        """Store a new conversation that begins with these items."""
        ...

    async def get(self, conversation_id: str, owner: str) -> Conversation:
        """The conversation without its items.

        Raises:
            NotFound: there is none, or it is somebody else's; so for all that follow.
        """
        ...

    async def update_metadata(
        self, conversation_id: str, owner: str, metadata: Mapping[str, str]
    ) -> Conversation:
        """Replace the metadata."""
        ...

    async def delete(self, conversation_id: str, owner: str) -> None:
        """Forget the conversation and the items that are no response's."""
        ...

    async def add_items(self, conversation_id: str, owner: str, items: Sequence[Item]) -> None:
        """Append items.

        Raises:
            InvalidRequest: an id is in the conversation already, or twice among the items.
        """
        ...

    async def items(self, conversation_id: str, owner: str) -> tuple[Item, ...]:
        """All items, oldest first."""
        ...

    async def list_items(self, conversation_id: str, owner: str, page: Page) -> ItemPage:
        """A page of the items.

        Raises:
            InvalidRequest: `after` names no item of the conversation.
        """
        ...

    async def item(self, conversation_id: str, owner: str, item_id: str) -> Item:
        """One item."""
        ...

    async def delete_item(self, conversation_id: str, owner: str, item_id: str) -> Conversation:
        """Take an item out of the conversation; a response that has it keeps it."""
        ...

    async def lock(self, conversation_id: str, owner: str, holder: str, ttl: float) -> None:
        """Reserve the conversation for one turn, named by its response's id, for `ttl` seconds.

        Again by the same holder: the time starts anew.

        Raises:
            Conflict: another turn has it (code conversation_locked).
        """
        ...

    async def unlock(self, conversation_id: str, owner: str, holder: str) -> None:
        """Give the conversation back, if this holder has it."""
        ...


class JournalStore(Protocol):
    """Keeps what a run needs to be taken up again: leases, steps, and the events sent."""

    async def claim(self, response_id: str, owner: str, holder: str, ttl: float) -> Lease | None:
        """Take an unfinished response that nobody holds; `None`: there is none to take."""
        ...

    async def renew(self, lease: Lease, ttl: float) -> bool:
        """Hold on for `ttl` more seconds; whether somebody asked to cancel.

        Raises:
            LeaseLost: somebody else has claimed the response, or it is finished.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Give an unfinished response back, if it is still ours; that counts as no attempt."""
        ...

    async def unfinished(self, limit: int = 100) -> list[UnfinishedResponse]:
        """Unfinished responses that nobody holds, oldest first; of all owners."""
        ...

    async def append_events(self, batches: Sequence[tuple[Lease, EventBatch]]) -> list[bool]:
        """Log frames of several streams, in one transaction, before they are sent.

        Returns for each whether it was logged: not, if somebody else has claimed its response.

        Raises:
            Conflict: a sequence number is taken; nothing is logged then.
        """
        ...

    async def events(
        self, response_id: str, owner: str, after: int = -1, limit: int = 1000
    ) -> list[tuple[int, bytes]]:
        """Logged frames with a sequence number above `after`.

        Raises:
            NotFound: there is no such response for this owner.
        """
        ...

    async def append_step(self, lease: Lease, step: Step) -> None:
        """Write down a step before its effect.

        Raises:
            LeaseLost: as for `renew`.
            Conflict: the number is taken.
        """
        ...

    async def steps(self, response_id: str, owner: str) -> list[Step]:
        """All steps, first to last.

        Raises:
            NotFound: there is no such response for this owner.
        """
        ...

    async def remember_key(
        self, owner: str, key: str, request_hash: str, response_id: str
    ) -> str | None:
        """Bind an idempotency key to a request; the earlier response's id, if it was bound.

        Raises:
            Conflict: the key was used for a different request.
        """
        ...

    async def forget_key(self, owner: str, key: str, response_id: str) -> None:
        """Free a key whose request came to nothing, if it is bound to this response."""
        ...


class ApprovalStore(Protocol):
    """Keeps which calls wait for a person's word."""

    async def answer(
        self, owner: str, response_id: str, *, approved: Sequence[str], denied: Sequence[str]
    ) -> None:
        """Note what this response answers: a call is allowed by the first answer, or never.

        To deny what was answered before changes nothing, and is no error.

        Raises:
            Conflict: one of the approved was answered before (code approval_already_answered);
                nothing is noted then.
        """
        ...

    async def take_back(self, owner: str, response_id: str) -> None:
        """Forget the answers of a response that came to nothing."""
        ...

    async def pending(self, owner: str, limit: int = 100) -> list[PendingApproval]:
        """Requests of stored responses that nobody has answered, oldest first."""
        ...

    async def one(self, owner: str, request_id: str) -> PendingApproval:
        """One request that nobody has answered.

        Raises:
            NotFound: there is none of this id.
        """
        ...


class WorkerStore(Protocol):
    """Keeps the workers that were added while a gateway ran."""

    async def add(self, worker: WorkerRecord) -> None:
        """Remember a worker; if it was remembered already, with what is said of it now."""
        ...

    async def change(self, worker: WorkerRecord) -> None:
        """Remember what is said of a worker now, if it is at all; its key stays if none is said."""
        ...

    async def remove(self, url: str) -> None:
        """Forget a worker, if it was remembered."""
        ...

    async def all(self) -> Sequence[WorkerRecord]:
        """All that are remembered, in the order of their URLs."""
        ...


class PinStore(Protocol):
    """Keeps which tools of which server were agreed to.

    A server is a label, and an identity: a label may come to stand for another server.
    """

    async def pinned(self, label: str, identity: str) -> PinnedTools | None:
        """What was agreed to last; `None`: nothing yet."""
        ...

    async def pin(
        self, label: str, identity: str, *, digest: str, tools: Mapping[str, str], approved_at: int
    ) -> None:
        """Agree to this instead of what was agreed to before."""
        ...


class Store(Protocol):
    """Everything that is kept."""

    @property
    def approvals(self) -> ApprovalStore:
        """Calls that wait for a person's word."""
        ...

    @property
    def responses(self) -> ResponseStore:
        """Responses and their items."""
        ...

    @property
    def conversations(self) -> ConversationStore:
        """Conversations."""
        ...

    @property
    def journal(self) -> JournalStore:
        """What unfinished responses need."""
        ...

    @property
    def workers(self) -> WorkerStore:
        """Workers that were added while a gateway ran."""
        ...

    @property
    def pins(self) -> PinStore:
        """Tools of MCP servers that operators have agreed to."""
        ...

    @property
    def damage(self) -> str | None:
        """Why nothing can be stored until the gateway is started again; `None`: it can."""
        ...

    async def give_back(self, pages: int) -> int:
        """Return up to so many unused pages to the disk; how many are still unused."""
        ...

    async def close(self) -> None:
        """Finish what is being written and let the database go."""
        ...
