"""Settings to running parts: workers found, model loaded, parsers chosen, servers connected.

Whatever is wrong with the set-up is told here, in words that name the flag.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smg.engines.base import EngineInfo
from smg.engines.registry import Connection, connect
from smg.engines.remote import Timeouts
from smg.engines.transport import Tls
from smg.errors import ConfigError
from smg.ids import new_id
from smg.mcp.config import load
from smg.mcp.toolbox import Toolbox
from smg.model import ServedModel
from smg.parsers.registry import (
    detect,
    family_call_id,
    markers,
    resolve_reasoning,
    resolve_tools,
)
from smg.settings import Settings, check_file
from smg.tokens.prompt import PromptBuilder
from smg.tokens.source import ModelFiles, locate
from smg.turn import Limits
from smg.workers.policies.registry import POLICIES
from smg.workers.pool import Pool, Probing
from smg.workers.worker import Worker

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.25
SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Families:
    """The parsers of a model, and why these."""

    reasoning: str
    tools: str
    why_reasoning: str
    why_tools: str


def new_limits(settings: Settings) -> Limits:
    """How far turns may go."""
    return Limits(
        max_tool_calls=settings.max_tool_calls,
        max_generations=settings.max_generations,
        wall_seconds=settings.response_timeout_secs,
    )


def new_pool(settings: Settings) -> Pool:
    """The workers of the command line; call it inside the event loop."""
    if not settings.worker_urls:
        raise ConfigError("--worker-urls: name at least one worker, as grpc://host:port")
    tls = Tls(
        ca_file=_path(settings.tls_ca),
        cert_file=_path(settings.tls_cert),
        key_file=_path(settings.tls_key),
    )
    timeouts = Timeouts(
        first_token_s=settings.first_token_timeout_secs,
        next_token_s=settings.next_token_timeout_secs,
    )
    connection = Connection(tls=tls, timeouts=timeouts)
    try:
        workers = [Worker(connect(url, None, connection)) for url in settings.worker_urls]
    except ConfigError as error:
        raise ConfigError(f"--worker-urls: {error}") from error
    probing = Probing(interval_s=settings.health_check_interval_secs)
    return Pool(workers, POLICIES[settings.policy](), probing)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


async def first_info(pool: Pool, seconds: float) -> EngineInfo | None:
    """What the workers serve, from the first that answers within this time."""
    deadline = time.monotonic() + seconds
    # The pool's own tasks probe its workers; this only looks, and only at start.
    while pool.info is None and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(CHECK_SECONDS)
    return pool.info


async def load_model(settings: Settings, pool: Pool, created_at: int) -> ServedModel:
    """The model the workers serve.

    Raises:
        ConfigError: it is not known where its tokenizer is, or something there is wrong.
    """
    check_file(settings.chat_template, "chat_template")
    info = await first_info(
        pool, 0 if settings.model_path else settings.worker_startup_timeout_secs
    )
    files = await asyncio.to_thread(_files, settings, info)
    families = _families(settings, files, info)
    builder = await asyncio.to_thread(
        PromptBuilder.load,
        files,
        markers(families.reasoning, families.tools),
        call_id=lambda name, number, public: family_call_id(families.tools, name, number, public),
        open_sealed=lambda text: text,  # Intake has opened what was sealed.
    )
    log.info(
        "Reasoning parser: %s (%s). Tool-call parser: %s (%s).",
        families.reasoning,
        families.why_reasoning,
        families.tools,
        families.why_tools,
    )
    return ServedModel(
        name=_name(settings, info),
        builder=builder,
        pool=pool,
        reasoning=families.reasoning,
        tools=families.tools,
        new_request_id=lambda: new_id("gen"),
        created_at=created_at,
        extra_defaults={k: v for k, v in files.generation_config.items() if k in SAMPLING_KEYS},
    )


def _files(settings: Settings, info: EngineInfo | None) -> ModelFiles:
    template = Path(settings.chat_template) if settings.chat_template else None
    if settings.model_path:
        return locate(settings.model_path, chat_template=template)
    told = [info.tokenizer_path, info.model_path] if info else []
    for path in told:
        if path and Path(path).is_dir():
            return locate(path, hub_id_allowed=False, chat_template=template)
    for path in told:
        if path and not path.startswith(("/", ".")):
            return locate(path, chat_template=template)
    raise ConfigError(
        "--model-path: name the model's folder or Hugging Face id; no worker told of one that can "
        "be read here"
    )


def _name(settings: Settings, info: EngineInfo | None) -> str:
    told = info.model if info else ""
    return settings.served_model_name or told or settings.model_path or "default"


def _families(settings: Settings, files: ModelFiles, info: EngineInfo | None) -> Families:
    found = detect(
        model_name=settings.served_model_name
        or settings.model_path
        or (info.model if info else ""),
        template=files.templates.get("default", ""),
        special_tokens=_special_tokens(files.tokenizer_config),
        architectures=files.config.get("architectures") or (),
        model_type=files.config.get("model_type") or "",
    )
    try:
        reasoning, tools = settings.reasoning_parser, settings.tool_call_parser
        return Families(
            reasoning=resolve_reasoning(reasoning) if reasoning else found.reasoning,
            why_reasoning="--reasoning-parser" if reasoning else found.why_reasoning,
            tools=resolve_tools(tools) if tools else found.tools,
            why_tools="--tool-call-parser" if tools else found.why_tools,
        )
    except ValueError as error:
        raise ConfigError(f"--reasoning-parser, --tool-call-parser: {error}") from error


def _special_tokens(config: Mapping[str, Any]) -> list[str]:
    added = config.get("added_tokens_decoder") or {}
    return [str(entry.get("content")) for entry in added.values() if isinstance(entry, Mapping)]


def new_toolbox(settings: Settings) -> Toolbox:
    """The MCP servers of the configuration file."""
    check_file(settings.mcp_config_path, "mcp_config_path")
    if settings.mcp_config_path is None:
        return Toolbox((), now)
    return Toolbox(load(Path(settings.mcp_config_path), os.environ).servers, now)


def now() -> int:
    """Unix seconds."""
    return int(time.time())
