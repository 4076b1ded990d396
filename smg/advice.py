"""Whether a gateway's settings are safe: settings come in, findings come out.

Nothing is connected to, and no secret is repeated. Each check is one function; the table at the end
is all of them.
"""

import ipaddress
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from smg.findings import Finding, bad, ok, warn
from smg.settings import Settings

SHORT_KEY = 16
"""Characters below which a key can be guessed."""


def advise(settings: Settings) -> Iterator[Finding]:
    """Everything about the settings."""
    for check in CHECKS:
        yield from check(settings)


def _address(settings: Settings) -> Iterator[Finding]:
    if is_this_machine(settings.host):
        yield ok(f"only this machine reaches {settings.host}")
    elif settings.api_key:
        yield ok(f"--host {settings.host} asks for a key")
    else:
        yield bad(
            f"--host {settings.host} lets anybody in without a key",
            "give --api-key (SMG_API_KEY), or listen on 127.0.0.1",
        )


def _metrics(settings: Settings) -> Iterator[Finding]:
    if settings.metrics_port is not None and not is_this_machine(settings.metrics_host):
        yield warn(
            f"--metrics-host {settings.metrics_host} shows metrics to anybody",
            "keep that port away from strangers, or listen on 127.0.0.1",
        )


def _keys(settings: Settings) -> Iterator[Finding]:
    if settings.admin_key and settings.admin_key in settings.api_key:
        yield bad(
            "--admin-key is also one of --api-key", "make a key of its own: openssl rand -hex 32"
        )
    secrets = {
        "--api-key": settings.api_key,
        "--admin-key": (settings.admin_key,) if settings.admin_key else (),
        "--seal-key": (settings.seal_key,) if settings.seal_key else (),
    }
    for flag, given in secrets.items():
        if any(len(key) < SHORT_KEY for key in given):
            yield warn(
                f"{flag} has less than {SHORT_KEY} characters",
                "make a longer one: openssl rand -hex 32",
            )


def _request_servers(settings: Settings) -> Iterator[Finding]:
    hosts = [host for text in settings.allow_request_mcp for host in text.split(",") if host]
    if not hosts:
        yield ok("requests may name no tool server of their own")
        return
    if not settings.api_key:
        yield warn(
            "--allow-request-mcp lets anybody have these hosts called: no key is asked for",
            "give --api-key (SMG_API_KEY)",
        )
    near = [host for host in hosts if _is_private(host)]
    if near:
        yield warn(
            f"--allow-request-mcp lets requests reach into your own network: {', '.join(near)}",
            "configure those servers in --mcp-config-path instead",
        )


def _workers(settings: Settings) -> Iterator[Finding]:
    for text in (*settings.worker_urls, *settings.prefill, *settings.decode):
        url = urlsplit(text)
        host = url.hostname
        plain = url.scheme.partition("+")[0] in ("grpc", "http")
        if not plain or host is None or is_this_machine(host):
            continue
        has_key = url.scheme == "http" and (settings.worker_api_key or settings.worker_api_key_env)
        if has_key:
            yield bad(f"worker {host}: its key goes over the network in plain text", "use https://")
        else:
            secure = "https://" if url.scheme == "http" else "grpcs://"
            yield warn(
                f"worker {host}: prompts go over the network in plain text",
                f"use {secure}, or be sure of that network",
            )


def _tool_servers(settings: Settings) -> Iterator[Finding]:
    path = Path(settings.mcp_config_path) if settings.mcp_config_path else None
    if path is None or not path.is_file():
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o007:
        yield warn(
            f"{path} may hold credentials, and everybody may read it (mode {mode:04o})",
            f"chmod 640 {path}",
        )


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _address,
    _metrics,
    _keys,
    _request_servers,
    _workers,
    _tool_servers,
)


def is_this_machine(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_private(entry: str) -> bool:
    host = urlsplit(f"//{entry}").hostname or entry
    if is_this_machine(host):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host
