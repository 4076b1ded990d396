"""`--prefill` and `--decode` to the workers of one model in two halves."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from smg.discovery.candidates import is_http
from smg.engines.registry import Connection, connect
from smg.errors import ConfigError
from smg.fleet import new_pool, new_worker
from smg.settings import Settings
from smg.workers.pd import DEFAULT_PORT, ENGINES, Meeting, PdPool
from smg.workers.worker import Worker

LARGEST_PORT: Final = 65535


def is_split(settings: Settings) -> bool:
    """Whether the model's workers are in two halves.

    Raises:
        ConfigError: one half is missing, or there are whole workers too.
    """
    if not settings.prefill and not settings.decode:
        return False
    if not settings.prefill or not settings.decode:
        raise ConfigError("--prefill, --decode: each needs the other")
    if settings.service_discovery:
        raise ConfigError(
            "--service-discovery: cannot be used together with --prefill and --decode"
        )
    if settings.dp_aware:
        # A decode worker would have to be told which rank has read the prompt.
        raise ConfigError("--dp-aware: cannot be used together with --prefill and --decode")
    if settings.worker_urls:
        raise ConfigError("--worker-urls: cannot be used together with --prefill and --decode")
    return True


def new_halves(settings: Settings, connection: Connection) -> PdPool:
    """The pool of both halves; call it inside the event loop.

    Raises:
        ConfigError: a URL or a port is wrong.
    """
    named = read_prefill(settings.prefill)
    prefill = [(_worker(settings, url, connection), url, port) for url, port in named]
    decode = [_worker(settings, url, connection) for url in settings.decode]
    return PdPool(
        new_pool(_with_policy(settings, settings.prefill_policy), [w for w, _, _ in prefill]),
        new_pool(_with_policy(settings, settings.decode_policy), decode),
        {worker: Meeting(urlsplit(url).hostname or "", port) for worker, url, port in prefill},
    )


def read_prefill(words: Sequence[str]) -> list[tuple[str, int]]:
    """The URLs of prefill workers, each with the port where it hands its cache over.

    Raises:
        ConfigError: a port stands alone, or is none.
    """
    found: list[tuple[str, int]] = []
    port_may_follow = False
    for word in words:
        if not word.isdecimal():
            found.append((word, DEFAULT_PORT))
        elif not port_may_follow or not 0 < int(word) <= LARGEST_PORT:
            raise ConfigError(f"--prefill: expected URL [PORT], got {word!r}")
        else:
            found[-1] = (found[-1][0], int(word))
        port_may_follow = not word.isdecimal()
    return found


def check_engines(pool: PdPool) -> None:
    """Refuse workers that cannot be halves of one model.

    Raises:
        ConfigError: an engine cannot be split, or the halves differ.
    """
    known = [worker.info for worker in pool.workers if worker.info is not None]
    engines = {info.engine for info in known}
    if engines - {*ENGINES}:
        names = ", ".join(sorted(engines - {*ENGINES}))
        raise ConfigError(
            f"--prefill, --decode: {names} cannot be split; {' and '.join(ENGINES)} can"
        )
    if len({(info.engine, info.model) for info in known}) > 1:
        told = ", ".join(sorted({f"{info.engine} with {info.model}" for info in known}))
        raise ConfigError(f"--prefill, --decode: all must be one engine with one model, not {told}")


def _worker(settings: Settings, url: str, connection: Connection) -> Worker:
    if is_http(url):
        raise ConfigError(f"--prefill, --decode: {url} is not of the form grpc://host:port")
    try:
        return new_worker(settings, connect(url, settings.backend, connection))
    except ConfigError as error:
        raise ConfigError(f"--prefill, --decode: {error}") from error


def _with_policy(settings: Settings, policy: str | None) -> Settings:
    return settings if policy is None else replace(settings, policy=policy)
