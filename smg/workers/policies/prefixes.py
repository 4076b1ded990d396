"""Which worker has read which beginnings of prompts: a radix tree over token ids.

Token ids and names of workers come in, matching lengths go out. What was not used for longest is
forgotten when the tree holds more tokens than it may. Knows no load and no prompt but its ids.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence

WIDTH = 4
"""Bytes of a token in a label: labels are bytes because those compare fastest."""


class _Node:
    """A piece of prompts, and who has read all up to its end."""

    __slots__ = ("children", "label", "owners", "parent")

    def __init__(self, label: bytes, parent: "_Node | None", owners: dict[str, int]) -> None:
        self.label = label
        self.parent = parent
        self.owners = owners
        self.children: dict[bytes, _Node] = {}


class PrefixTree:
    """The prompts of one model."""

    def __init__(self, max_tokens: int) -> None:
        self._max_bytes = max_tokens * WIDTH
        self._bytes = 0
        self._root = _Node(b"", None, {})
        self._lives: dict[str, int] = {}
        """How often each worker was forgotten; what it read in an earlier life does not count."""
        # Oldest first. A path is touched from its end to the root, so that no node stands behind
        # its parent, and the oldest of all is always a leaf.
        self._ages: OrderedDict[_Node, None] = OrderedDict()

    @property
    def tokens(self) -> int:
        """How many are remembered; a shared beginning counts once."""
        return self._bytes // WIDTH

    def match(self, ids: Sequence[int]) -> dict[str, int]:
        """How many leading tokens each worker has read before; none: it is not named."""
        key, at, node = _key(ids), 0, self._root
        found: dict[str, int] = {}
        while (child := node.children.get(key[at : at + WIDTH])) is not None:
            shared = _shared(key, at, child.label)
            at += shared
            for owner, life in child.owners.items():
                if life == self._lives.get(owner, 0):
                    found[owner] = at // WIDTH
            if shared < len(child.label):
                break
            node = child
        return found

    def insert(self, ids: Sequence[int], owner: str) -> None:
        """Remember that a worker reads this prompt."""
        key, at, node = _key(ids), 0, self._root
        while at < len(key):
            child = node.children.get(key[at : at + WIDTH])
            if child is None:
                child = self._grow(node, key[at:])
            else:
                shared = _shared(key, at, child.label)
                if shared < len(child.label):
                    child = self._split(child, shared)
            child.owners[owner] = self._lives.get(owner, 0)
            at += len(child.label)
            node = child
        self._touch(node)
        while self._bytes > self._max_bytes and self._ages:
            self._drop(next(iter(self._ages)))

    def forget(self, owner: str) -> None:
        """Take a worker to know nothing; its place in the tree is freed as it grows old."""
        self._lives[owner] = self._lives.get(owner, 0) + 1

    def remove(self, owner: str) -> None:
        """Forget a worker for good, and all that only it has read."""
        for node in list(self._ages):
            node.owners.pop(owner, None)
        # Who owns a node owns its parents: below one without owners there is none with.
        for node in [node for node in self._ages if not node.owners]:
            self._drop(node)
        self._lives.pop(owner, None)

    def _grow(self, parent: _Node, label: bytes) -> _Node:
        node = _Node(label, parent, {})
        parent.children[label[:WIDTH]] = node
        self._ages[node] = None
        self._bytes += len(label)
        return node

    def _split(self, node: _Node, length: int) -> _Node:
        """Cut a node in two; the upper half, which keeps the place in the tree."""
        assert node.parent is not None
        upper = _Node(node.label[:length], node.parent, dict(node.owners))
        node.parent.children[upper.label[:WIDTH]] = upper
        node.label, node.parent = node.label[length:], upper
        upper.children[node.label[:WIDTH]] = node
        self._ages[upper] = None
        return upper

    def _touch(self, node: _Node) -> None:
        while node.parent is not None:
            self._ages.move_to_end(node)
            node = node.parent

    def _drop(self, node: _Node) -> None:
        del self._ages[node]
        self._bytes -= len(node.label)
        if node.parent is not None:
            node.parent.children.pop(node.label[:WIDTH], None)


def _key(ids: Sequence[int]) -> bytes:
    # An array would take bytes, which stand for text, for its own memory.
    return array("I", list(ids) if isinstance(ids, bytes) else ids).tobytes()


def _shared(key: bytes, at: int, label: bytes) -> int:
    """How many bytes of a label, in whole tokens, stand at this place of a key."""
    if key.startswith(label, at):
        return len(label)
    low, high = 0, min(len(label), len(key) - at) // WIDTH
    while low < high:  # `low` tokens are equal; more than `high` are not.
        middle = (low + high + 1) // 2
        if key.startswith(label[low * WIDTH : middle * WIDTH], at + low * WIDTH):
            low = middle
        else:
            high = middle - 1
    return low * WIDTH
