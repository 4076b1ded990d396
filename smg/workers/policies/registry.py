"""The policies there are, by the name that `--policy` takes."""

from collections.abc import Callable
from typing import Final

from smg.workers.policies.base import Policy
from smg.workers.policies.cache import CacheAware, PrefixHash
from smg.workers.policies.hashing import ConsistentHashing
from smg.workers.policies.load import LeastLoad
from smg.workers.policies.simple import Passthrough, PowerOfTwo, Random, RoundRobin
from smg.workers.policies.sticky import Manual

# Each takes PolicyOptions, or nothing.
POLICIES: Final[dict[str, Callable[..., Policy]]] = {
    "random": Random,
    "round_robin": RoundRobin,
    "passthrough": Passthrough,
    "cache_aware": CacheAware,
    "power_of_two": PowerOfTwo,
    "least_load": LeastLoad,
    "prefix_hash": PrefixHash,
    "consistent_hashing": ConsistentHashing,
    "manual": Manual,
}
