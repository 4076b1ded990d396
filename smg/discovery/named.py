"""A worker as somebody names it: where it is, and what else is said of it.

Values only. What a worker is, it is asked; a description is for those who look at it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_PRIORITY = 50
DEFAULT_COST = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What an operator notes of a worker; no policy looks at it."""

    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = DEFAULT_PRIORITY
    cost: float = DEFAULT_COST


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A worker that is to be taken in."""

    url: str
    description: Description = Description()
    api_key: str | None = field(default=None, repr=False)
    """Its own key, instead of the general one."""
