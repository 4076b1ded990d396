"""A routing key keeps the worker it first got, however loads and the fleet change."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from smg.engines.base import PromptTokens
from smg.workers.policies.base import Policy, PolicyOptions, Ranking, by_work
from smg.workers.worker import Worker

MAX_KEYS = 100_000
"""Keys are made up by clients: the one unused for longest is forgotten."""


class Manual(Policy):
    """Sticky by routing key; a new key goes to the least loaded worker, as one without a key."""

    def __init__(
        self,
        options: PolicyOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options or PolicyOptions()
        self._clock = clock
        self._homes: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """Address and last use, the least recently used key first."""

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """The key's worker, then the others by load."""
        by_load = sorted(workers, key=by_work)
        home = self._home(prompt.routing_key)
        ranked = tuple(sorted(by_load, key=lambda worker: worker.address != home))
        if ranked and ranked[0].address == home:
            return Ranking(ranked, "manual: the routing key's worker")
        return Ranking(ranked, "manual: new routing key, least load")

    def placed(self, prompt: PromptTokens, worker: Worker) -> None:
        """Remember a new key's worker, or the one that stands in for its old one."""
        if prompt.routing_key is None:
            return
        self._homes[prompt.routing_key] = worker.address, self._clock()
        self._homes.move_to_end(prompt.routing_key)
        if len(self._homes) > MAX_KEYS:
            self._homes.popitem(last=False)

    def removed(self, worker: Worker) -> None:
        """Forget the keys of a worker that is gone."""
        for key in [key for key, (home, _) in self._homes.items() if home == worker.address]:
            del self._homes[key]

    def _home(self, key: str | None) -> str | None:
        if key is None or key not in self._homes:
            return None
        home, used_at = self._homes[key]
        if self._clock() - used_at <= self._options.max_idle_secs:
            return home
        del self._homes[key]
        return None
