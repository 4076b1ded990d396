"""What a check finds: how bad it is, what it is, and how to mend it. Standard library only."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for an operator."""

    level: Level
    what: str
    mend: str = ""
    """What to do about it; nothing, if it is well."""

    @property
    def line(self) -> str:
        """The finding as it is shown."""
        return f"{self.level:<4}  {self.what}" + (f"  ->  {self.mend}" if self.mend else "")


def ok(what: str) -> Finding:
    """Nothing needs to be done."""
    return Finding("ok", what)


def warn(what: str, mend: str) -> Finding:
    """It works; somebody should know."""
    return Finding("warn", what, mend)


def bad(what: str, mend: str) -> Finding:
    """It must not stay so."""
    return Finding("bad", what, mend)
