"""Settings to the pool of one model's workers: policy, retries, breakers, health checks.

Flags and workers in, pools out. Knows no model.
"""

from collections.abc import Sequence

from smg.engines.base import Engine
from smg.settings import Settings
from smg.workers.breaker import Breaker, BreakerRules
from smg.workers.health import Thresholds
from smg.workers.observer import Observer
from smg.workers.policies.base import Policy, PolicyOptions
from smg.workers.policies.registry import POLICIES
from smg.workers.pool import Pool
from smg.workers.retries import Retries
from smg.workers.watch import Probing
from smg.workers.worker import Worker


def new_pool(
    settings: Settings, workers: Sequence[Worker], observer: Observer | None = None
) -> Pool:
    """The pool of these workers; call it inside the event loop."""
    probing = Probing(
        interval_s=settings.health_check_interval_secs,
        load_interval_s=settings.load_monitor_interval,
    )
    return Pool(
        workers,
        new_policy(settings),
        probing,
        retries=new_retries(settings),
        observer=observer,
    )


def new_worker(settings: Settings, engine: Engine) -> Worker:
    """A worker that fails and recovers by the flags' rules."""
    rules = BreakerRules(
        failures=settings.cb_failure_threshold,
        successes=settings.cb_success_threshold,
        open_s=settings.cb_timeout_duration_secs,
        window_s=settings.cb_window_duration_secs,
    )
    thresholds = Thresholds(
        failures=settings.health_failure_threshold,
        successes=settings.health_success_threshold,
    )
    alias = engine.address if settings.expose_workers else None
    return Worker(
        engine,
        breaker=Breaker(rules),
        thresholds=thresholds,
        alias=alias,
        divides=settings.dp_aware,
    )


def new_policy(settings: Settings) -> Policy:
    """How a worker is chosen."""
    return POLICIES[settings.policy](
        PolicyOptions(
            cache_threshold=settings.cache_threshold,
            balance_abs_threshold=settings.balance_abs_threshold,
            balance_rel_threshold=settings.balance_rel_threshold,
            balance_token_usage_threshold=settings.balance_token_usage_threshold,
            overload_token_usage_threshold=settings.overload_token_usage_threshold,
            max_tree_size=settings.max_tree_size,
            prefix_token_count=settings.prefix_token_count,
            prefix_hash_load_factor=settings.prefix_hash_load_factor,
            max_idle_secs=settings.max_idle_secs,
        )
    )


def new_retries(settings: Settings) -> Retries:
    """When a generation is tried again."""
    return Retries(
        attempts=settings.retry_max_retries,
        initial_s=settings.retry_initial_backoff_ms / 1000,
        longest_s=settings.retry_max_backoff_ms / 1000,
        factor=settings.retry_backoff_multiplier,
        jitter=settings.retry_jitter_factor,
    )
