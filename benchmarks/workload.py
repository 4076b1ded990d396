"""What clients ask of a fleet: conversations of three shapes that begin at random times.

Agents (one long system prompt for each of some kinds, growing over several steps), chats (short,
growing), and single long prompts that nobody shares. Out come conversations as passages of so many
tokens; whoever asks makes ids (`fleet.py`) or words (`fleet_real.py`) of them, and the same
passage is always the same text. It is made up: the shapes follow how such traffic looks, not a
recording of anybody's.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Word = TypeVar("Word", str, int)

KINDS = 24
"""Agents that differ in their system prompts."""
SYSTEM_TOKENS = 6000


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a prompt that is the same wherever it is used."""

    name: str
    tokens: int

    def drawn(self, words: Sequence[Word]) -> list[Word]:
        """As many of these words as it has tokens."""
        return random.Random(self.name).choices(words, k=self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Prompts that grow: the first is `opening`, each later one an answer and a passage more."""

    key: str
    at: float
    """Seconds from the beginning."""
    opening: Sequence[Passage]
    steps: int
    more: int
    """Tokens of what is added to each answer."""
    answer: int
    """Tokens of each answer."""
    pause: float
    """Seconds between an answer and the next question."""

    def added(self, step: int) -> Passage:
        """What is said after this step's answer."""
        return Passage(f"{self.key}/{step}", self.more)


def workload(requests: int, rate: float, seed: int) -> Iterator[Conversation]:
    """Conversations at random times, until they add up to so many requests."""
    chance = random.Random(seed)
    at, asked, number = 0.0, 0, 0
    while asked < requests:
        number += 1
        told = _conversation(f"{seed}-c{number}", at, chance)
        asked += told.steps
        at += chance.expovariate(rate / told.steps)
        yield told


def _conversation(key: str, at: float, chance: random.Random) -> Conversation:
    own = Passage(f"{key}/own", 200)
    shape = chance.choices(("agent", "chat", "single"), (5, 4, 2))[0]
    if shape == "agent":
        system = Passage(f"system-{chance.randrange(KINDS)}", SYSTEM_TOKENS)
        return Conversation(
            key=key, at=at, opening=[system, own], steps=6, more=380, answer=120, pause=0.5
        )
    if shape == "chat":
        asked = Passage(f"{key}/own", 400)
        return Conversation(
            key=key, at=at, opening=[asked], steps=4, more=100, answer=200, pause=4.0
        )
    alone = Passage(f"{key}/own", chance.randrange(1000, 12_000))
    return Conversation(key=key, at=at, opening=[alone], steps=1, more=0, answer=150, pause=0.0)
