"""The last touch on events before anybody sees or stores them: sealing what clients keep for us.

The agent loop writes reasoning and summaries as plain text; here they get their sealed form, once
an item, so that the stream, the stored row and the final object hold the same blob.
"""

from collections.abc import Sequence
from dataclasses import replace

from smg.events import Event, ItemFinished, ItemStarted, TurnFinished
from smg.items import Compaction, Item, Reasoning
from smg.seal import Seal

REASONING = "reasoning"
COMPACTION = "compaction"


class Adornment:
    """Seals the items of one response."""

    def __init__(self, seal: Seal, owner: str, *, seals_reasoning: bool) -> None:
        self._seal = seal
        self._owner = owner
        self._seals_reasoning = seals_reasoning
        self._blobs: dict[str, str] = {}

    def adorned(self, events: Sequence[Event]) -> list[Event]:
        """The events with their items sealed."""
        return [self._event(event) for event in events]

    def items(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """Items in the form the client keeps."""
        return tuple(self.item(item) for item in items)

    def _event(self, event: Event) -> Event:
        match event:
            case ItemFinished(index, item):
                return ItemFinished(index, self.item(item))
            case ItemStarted(index, Compaction() as item):
                return ItemStarted(index, self.item(item))
            case TurnFinished():
                return replace(event, items=self.items(event.items))
            case _:
                return event

    def item(self, item: Item) -> Item:
        """The item in the form the client keeps."""
        match item:
            case Reasoning() if self._seals_reasoning and item.text and not item.encrypted:
                return replace(item, encrypted=self._blob(REASONING, item.id, item.text))
            case Compaction() if item.is_open:
                blob = self._blob(COMPACTION, item.id, item.encrypted)
                return replace(item, encrypted=blob, is_open=False)
            case _:
                return item

    def _blob(self, purpose: str, item_id: str, text: str) -> str:
        if item_id not in self._blobs:
            self._blobs[item_id] = self._seal.seal(purpose, self._owner, text)
        return self._blobs[item_id]
