"""Every setting of the gateway: one field is one flag, its environment variable, its help.

`read` makes a Settings from a command line and the environment. A wrong value is a ConfigError of
one line that names the flag. Standard library only.
"""

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from smg.errors import ConfigError

GROUPS = (
    "Server",
    "Workers",
    "Model",
    "Responses",
    "MCP",
    "Storage",
    "Security",
    "Logging",
)


POLICIES = (
    "random",
    "round_robin",
    "passthrough",
    "cache_aware",
    "power_of_two",
    "least_load",
    "prefix_hash",
    "consistent_hashing",
    "manual",
)


def option(  # noqa: PLR0913 - what a flag can have
    default: Any,
    group: str,
    help: str,
    *,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    least: float | None = None,
    most: float | None = None,
    aliases: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    """A field that is a flag."""
    return field(
        default=default,
        metadata={
            "group": group,
            "help": help,
            "metavar": metavar,
            "choices": choices,
            "least": least,
            "most": most,
            "aliases": aliases,
            "secret": secret,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one gateway runs."""

    host: str = option("127.0.0.1", "Server", "address to listen on")
    port: int = option(
        30000, "Server", "port to listen on; 0 takes a free one", least=0, most=65535
    )
    max_body_mib: int = option(16, "Server", "largest request body, in MiB", least=1, most=4096)
    max_bodies_mib: int = option(
        512, "Server", "request bodies held at once, all together, in MiB; then 503", least=1
    )
    max_concurrent_requests: int = option(
        0, "Server", "generating requests worked on at once; 0: no limit", least=0
    )
    queue_size: int = option(
        100, "Server", "generating requests that may wait for their turn", least=0
    )
    queue_timeout_secs: float = option(
        60.0, "Server", "longest wait for a turn; then 429", least=0.001
    )
    rate_limit_tokens_per_second: float = option(
        0.0, "Server", "generating requests begun in a second; 0: no limit", metavar="N", least=0
    )
    key_max_concurrent_requests: int = option(
        0, "Server", "as --max-concurrent-requests, for each API key", least=0
    )
    key_rate_limit_tokens_per_second: float = option(
        0.0,
        "Server",
        "as --rate-limit-tokens-per-second, for each API key",
        metavar="N",
        least=0,
    )
    model_max_concurrent_requests: int = option(
        0, "Server", "as --max-concurrent-requests, for each model", least=0
    )
    model_limit: tuple[str, ...] = option(
        (),
        "Server",
        "as --model-max-concurrent-requests, for one model; 0: no limit",
        metavar="NAME=N",
    )
    model_rate_limit_tokens_per_second: float = option(
        0.0,
        "Server",
        "as --rate-limit-tokens-per-second, for each model",
        metavar="N",
        least=0,
    )
    background_queue_size: int = option(
        1000, "Server", "responses in the background that may wait for their turn", least=0
    )
    key_max_websockets: int = option(
        0, "Server", "WebSockets open at once, for each API key; 0: no limit", least=0
    )
    processes: int = option(
        1, "Server", "gateways on this port, each a process of its own with the same flags", least=1
    )
    shutdown_grace_seconds: float = option(
        30.0, "Server", "time running responses have to end at shutdown", least=0
    )
    drain_settle_secs: float = option(
        1.0,
        "Server",
        "part of that time after SIGTERM in which connections are still accepted and told so, for "
        "load balancers to notice that /readiness is 503",
        least=0,
    )

    worker_urls: tuple[str, ...] = option(
        (),
        "Workers",
        "engines to use: grpc://host:port, grpcs://host:port, or an OpenAI-compatible server: "
        "http://host:port[/v1]",
        metavar="URL",
    )
    backend: str | None = option(
        None,
        "Workers",
        "the engine behind grpc:// URLs; default: found out (grpc+sglang:// says it for one)",
        choices=("vllm", "sglang", "trtllm", "mlx", "tokenspeed"),
    )
    prefill: tuple[str, ...] = option(
        (),
        "Workers",
        "prefill worker of a model that is split in two, and the port where it hands its cache "
        "over (default 8998); instead of --worker-urls, with --decode",
        metavar="URL [PORT]",
    )
    decode: tuple[str, ...] = option(
        (), "Workers", "decode worker of a model that is split in two", metavar="URL"
    )
    prefill_policy: str | None = option(
        None, "Workers", "how a prefill worker is chosen; default: as --policy", choices=POLICIES
    )
    decode_policy: str | None = option(
        None, "Workers", "how a decode worker is chosen; default: as --policy", choices=POLICIES
    )
    service_discovery: bool = option(
        False, "Workers", "use the ready pods of a Kubernetes cluster as workers; needs smg[k8s]"
    )
    selector: tuple[str, ...] = option(
        (), "Workers", "labels of the pods that are workers, all of them", metavar="LABEL=VALUE"
    )
    service_discovery_port: int = option(
        50051,
        "Workers",
        "gRPC port of a pod that has no annotation smg.ai/worker-ports",
        least=1,
        most=65535,
    )
    service_discovery_namespace: str | None = option(
        None, "Workers", "namespace of the pods; default: all namespaces"
    )
    worker_api_key: str | None = option(
        None, "Workers", "key for http:// workers; better in its variable", secret=True
    )
    worker_api_key_env: tuple[str, ...] = option(
        (),
        "Workers",
        "the variable that holds the key of one http:// worker, instead of the general key",
        metavar="URL=VARIABLE",
    )
    policy: str = option(
        "cache_aware",
        "Workers",
        "how a worker is chosen",
        choices=POLICIES,
    )
    model_policy: tuple[str, ...] = option(
        (),
        "Workers",
        "another --policy for the workers of one model",
        metavar="MODEL=POLICY",
    )
    dp_aware: bool = option(
        False,
        "Workers",
        "treat each data-parallel rank of a worker as a worker of its own, named URL@rank",
    )
    cache_threshold: float = option(
        0.3,
        "Workers",
        "cache_aware: part of a prompt a worker must know to be chosen for that",
        metavar="PART",
        least=0,
        most=1,
    )
    balance_abs_threshold: int = option(
        64, "Workers", "cache_aware: load decides once one worker has so many more", least=0
    )
    balance_rel_threshold: float = option(
        1.5, "Workers", "cache_aware: ... and so many times as many", metavar="TIMES", least=1
    )
    balance_token_usage_threshold: float = option(
        1.0,
        "Workers",
        "cache_aware: load decides once one KV cache is so much fuller than another; 1: never",
        metavar="PART",
        least=0,
        most=1,
    )
    overload_token_usage_threshold: float = option(
        1.0,
        "Workers",
        "cache_aware: load decides once a KV cache is so full; 1: never",
        metavar="PART",
        least=0,
        most=1,
    )
    max_tree_size: int = option(
        16_777_216, "Workers", "cache_aware: tokens of prompts remembered, 4 bytes each", least=1
    )
    prefix_token_count: int = option(
        256, "Workers", "prefix_hash: tokens at a prompt's beginning that decide", least=1
    )
    prefix_hash_load_factor: float = option(
        1.25, "Workers", "prefix_hash: most load, in averages", metavar="TIMES", least=1
    )
    max_idle_secs: float = option(
        14400.0, "Workers", "manual: how long an idle routing key keeps its worker", least=1
    )
    load_monitor_interval: float = option(
        10.0, "Workers", "time between questions for a worker's load", least=0.05
    )
    expose_workers: bool = option(
        False, "Workers", "name workers to clients by their address; else by a hash of it"
    )

    retry_max_retries: int = option(
        5, "Workers", "tries of one generation in all, before its first token", least=1
    )
    retry_initial_backoff_ms: float = option(
        50.0, "Workers", "pause once all workers have failed", metavar="MS", least=0
    )
    retry_max_backoff_ms: float = option(
        30_000.0, "Workers", "longest pause between tries", metavar="MS", least=0
    )
    retry_backoff_multiplier: float = option(
        1.5, "Workers", "each pause is so many times the last", metavar="TIMES", least=1
    )
    retry_jitter_factor: float = option(
        0.2, "Workers", "part of a pause that is chance", metavar="PART", least=0, most=1
    )
    cb_failure_threshold: int = option(
        10, "Workers", "failures within the window that open a worker's breaker", least=1
    )
    cb_success_threshold: int = option(3, "Workers", "trials in a row that close it again", least=1)
    cb_timeout_duration_secs: float = option(
        60.0, "Workers", "time it stays open before the first trial", least=0
    )
    cb_window_duration_secs: float = option(
        120.0, "Workers", "time after which a failure is forgotten", least=0.1
    )
    health_failure_threshold: int = option(
        3, "Workers", "failed checks in a row after which a worker is down", least=1
    )
    health_success_threshold: int = option(
        2, "Workers", "good checks in a row after which it is up again", least=1
    )

    worker_startup_timeout_secs: float = option(
        60.0, "Workers", "how long to wait at start for the first worker to answer", least=0
    )
    persist_workers: bool = option(
        False,
        "Workers",
        "keep workers that are added at /workers in the database, and take them back at start",
    )
    health_check_interval_secs: float = option(
        30.0, "Workers", "time between health checks of a worker that is up", least=0.1
    )
    first_token_timeout_secs: float = option(
        300.0, "Workers", "longest wait for a generation's first token", least=0.001
    )
    next_token_timeout_secs: float = option(
        60.0, "Workers", "longest wait between two tokens", least=0.001
    )
    tls_ca: str | None = option(
        None, "Workers", "CA certificate for grpcs:// workers", metavar="PEM"
    )
    tls_cert: str | None = option(None, "Workers", "client certificate for workers", metavar="PEM")
    tls_key: str | None = option(None, "Workers", "key of the client certificate", metavar="PEM")

    model_path: str | None = option(
        None,
        "Model",
        "folder or Hugging Face id of the model: tokenizer and chat template come from there",
        metavar="ID_OR_DIR",
        aliases=("--model",),
    )
    served_model_name: str | None = option(
        None, "Model", "name clients use; default: what the worker says, else the model path"
    )
    model_alias: tuple[str, ...] = option(
        (), "Model", "further names under which models are known", metavar="ALIAS=NAME"
    )
    chat_template: str | None = option(
        None, "Model", "template file (.jinja or .json) instead of the model's own", metavar="FILE"
    )
    reasoning_parser: str | None = option(
        None, "Model", "how reasoning is told apart; default: found out from the model"
    )
    tool_call_parser: str | None = option(
        None, "Model", "how tool calls are read; default: found out from the model"
    )

    tokenizer_cache_mib: int = option(
        64, "Model", "memory for text that was encoded, in MiB a model; 0: none", least=0
    )

    max_generations: int = option(
        25, "Responses", "model calls one response may take (then it ends incomplete)", least=1
    )
    max_tool_calls: int = option(
        100, "Responses", "MCP calls one response may make when it sets no limit", least=1
    )
    response_timeout_secs: float = option(
        1800.0, "Responses", "longest time one response may take", least=1
    )

    strict_streams: bool = option(
        False,
        "Responses",
        "check every event of a stream before it leaves; costs time, finds mistakes of ours",
    )
    websocket_max_secs: float = option(
        3600.0, "Responses", "longest time a WebSocket on /v1/responses stays open", least=0.1
    )

    lease_seconds: float = option(
        15.0,
        "Responses",
        "time without a sign of life after which another gateway takes a response over",
        least=0.05,
    )
    on_disconnect: str = option(
        "continue",
        "Responses",
        "what a stored response does when its client goes away",
        choices=("continue", "cancel"),
    )
    on_restart: str = option(
        "fail",
        "Responses",
        "what becomes of a foreground response whose gateway died; background ones go on",
        choices=("fail", "continue"),
    )
    on_unknown_outcome: str = option(
        "error",
        "Responses",
        "what a tool call becomes that may or may not have run when its gateway died",
        choices=("error", "ask"),
    )
    allow_unanswered_calls: bool = option(
        False,
        "Responses",
        "accept a conversation with a function call that has no output (OpenAI refuses it)",
    )

    mcp_config_path: str | None = option(
        None, "MCP", "JSON or YAML file with the MCP servers", metavar="FILE"
    )

    approval_expiry_secs: float = option(
        0.0, "MCP", "how long an approval request can be answered with yes; 0: always", least=0
    )
    allow_request_mcp: tuple[str, ...] = option(
        (),
        "MCP",
        "hosts whose MCP servers requests may name by server_url (https; http for loopback "
        "addresses written as such)",
        metavar="HOST",
    )

    synchronous: str = option(
        "normal",
        "Storage",
        "SQLite: normal survives a crash of the gateway, full also a power loss",
        choices=("normal", "full"),
    )
    database_url: str | None = option(
        None,
        "Storage",
        "sqlite:///FILE, sqlite:///:memory: or postgresql://...; default: smg.db in the user's "
        "data folder",
        metavar="URL",
    )

    retention_days: float = option(
        30.0,
        "Storage",
        "how long finished responses are kept; 0: for ever. Conversations always are",
        metavar="DAYS",
        least=0,
    )

    api_key: tuple[str, ...] = option(
        (), "Security", "keys clients must send; each sees only its own data", secret=True
    )

    admin_key: str | None = option(
        None,
        "Security",
        "key of those who may list, add and remove workers (/workers); without it nobody may",
        secret=True,
    )

    seal_key: str | None = option(
        None,
        "Security",
        "secret that seals reasoning and summaries clients keep; the same on every gateway that "
        "shares a database; default: a file beside the database",
        secret=True,
    )

    metrics_port: int | None = option(
        None,
        "Logging",
        "port for /metrics alone, without a key; else it is on --port, with one",
        least=0,
        most=65535,
    )
    metrics_host: str = option("127.0.0.1", "Logging", "address of --metrics-port")
    otlp_endpoint: str | None = option(
        None,
        "Logging",
        "where to send traces (OTLP over gRPC); needs smg[otel]",
        metavar="URL",
    )
    log_level: str = option(
        "info",
        "Logging",
        "least important message shown",
        choices=("debug", "info", "warning", "error"),
    )
    log_json: bool = option(False, "Logging", "log one JSON object a line")


def flag_of(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The environment variable of a field."""
    return "SMG_" + name.upper()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every field, in groups."""
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for entry in dataclasses.fields(Settings):
        about = entry.metadata
        kwargs: dict[str, Any] = {"default": None, "dest": entry.name}
        shown = "" if entry.default in (None, ()) else f" (default: {_shown(entry.default)})"
        kwargs["help"] = f"{about['help']}{shown} [{variable_of(entry.name)}]".replace("%", "%%")
        kind, many = _kind(entry)
        if kind is bool:
            kwargs["action"] = argparse.BooleanOptionalAction
        else:
            kwargs["metavar"] = about["metavar"] or _metavar(about["choices"], kind)
            if many:
                kwargs |= {"nargs": "+", "action": "extend"}
        groups[about["group"]].add_argument(flag_of(entry.name), *about["aliases"], **kwargs)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _metavar(choices: Sequence[str] | None, kind: type) -> str:
    if choices:
        return "{" + ",".join(choices) + "}"
    return {int: "N", float: "SECONDS"}.get(kind, "TEXT")


def _kind(entry: "dataclasses.Field[Any]") -> tuple[type, bool]:
    """The type of a field's value, and whether there may be several."""
    hint = typing.get_type_hints(Settings)[entry.name]
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    if isinstance(hint, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None)), False
    return hint, False


def read(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Settings from parsed flags, else from the environment, else the defaults.

    Raises:
        ConfigError: a value is of the wrong kind or out of range; the message names its flag.
    """
    values: dict[str, Any] = {}
    for entry in dataclasses.fields(Settings):
        given = arguments.get(entry.name)
        source = flag_of(entry.name)
        if given is None and variable_of(entry.name) in environment:
            source = variable_of(entry.name)
            given = environment[source]
        if given is not None:
            values[entry.name] = _value(entry, given, source)
    return Settings(**values)


def _value(entry: "dataclasses.Field[Any]", given: Any, source: str) -> Any:
    kind, many = _kind(entry)
    if many:
        texts = given.split() if isinstance(given, str) else given
        return tuple(_checked(entry, kind(text), source) for text in texts)
    return _checked(entry, _converted(kind, given, source), source)


def _converted(kind: type, given: Any, source: str) -> Any:
    if isinstance(given, bool):
        return given
    converters: dict[type, Callable[[str], Any]] = {bool: _truth, float: _finite}
    convert = converters.get(kind, kind)
    try:
        return convert(given)
    except ValueError:
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise ConfigError(f"{source}: expected {wanted}, got {given!r}") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)  # No limit is below, or above, what is not a number.
    return value


def _truth(text: str) -> bool:
    known = {
        "1": True,
        "true": True,
        "yes": True,
        "0": False,
        "false": False,
        "no": False,
        "": False,
    }
    if text.lower() not in known:
        raise ValueError(text)
    return known[text.lower()]


def _checked(entry: "dataclasses.Field[Any]", value: Any, source: str) -> Any:
    about = entry.metadata
    if about["choices"] and value not in about["choices"]:
        known = ", ".join(about["choices"])
        raise ConfigError(f"{source}: unknown value {value!r}; known are {known}")
    if about["least"] is not None and value < about["least"]:
        raise ConfigError(f"{source}: {value:g} is below the least, {about['least']:g}")
    if about["most"] is not None and value > about["most"]:
        raise ConfigError(f"{source}: {value:g} is above the most, {about['most']:g}")
    return value


def new_parser(description: str) -> argparse.ArgumentParser:
    """A command line whose mistakes are ConfigErrors."""
    return _Parser(prog="smg", description=description, allow_abbrev=False)


def check_file(path: str | None, name: str) -> None:
    """Refuse a path that is no readable file.

    Raises:
        ConfigError: there is no such file.
    """
    if path is not None and not Path(path).is_file():
        raise ConfigError(f"{flag_of(name)}: there is no file {path!r}")
