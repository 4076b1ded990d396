"""Settings to running parts: workers found, model loaded, parsers chosen, servers connected.

Whatever is wrong with the set-up is told here, in words that name the flag.
"""

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smg.engines.base import EngineInfo
from smg.engines.registry import Connection
from smg.engines.remote import RemoteEngine, Timeouts
from smg.engines.transport import Tls
from smg.errors import ConfigError, EngineError
from smg.ids import new_id
from smg.mcp.config import load
from smg.mcp.connection import Ties
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
from smg.tracing import outgoing
from smg.turn import Limits
from smg.workers.pd import PdPool
from smg.workers.pool import Pool

log = logging.getLogger(__name__)

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


def new_connection(settings: Settings) -> Connection:
    """How to talk to gRPC workers."""
    tls = Tls(
        ca_file=_path(settings.tls_ca),
        cert_file=_path(settings.tls_cert),
        key_file=_path(settings.tls_key),
    )
    return Connection(tls=tls, timeouts=new_timeouts(settings), metadata=outgoing)


def new_timeouts(settings: Settings) -> Timeouts:
    """How long workers may take."""
    return Timeouts(
        first_token_s=settings.first_token_timeout_secs,
        next_token_s=settings.next_token_timeout_secs,
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


async def load_model(
    settings: Settings, pool: Pool | PdPool, created_at: int, info: EngineInfo | None
) -> ServedModel:
    """The model that the workers of a pool serve, by what one of them says of it.

    Raises:
        ConfigError: it is not known where its tokenizer is, or something there is wrong.
    """
    check_file(settings.chat_template, "chat_template")
    with tempfile.TemporaryDirectory(prefix="smg-tokenizer-") as folder:
        files = await _files(settings, info, pool, Path(folder))
        if info is not None and not info.is_generation:
            # What makes vectors has no template, and needs none.
            files = replace(files, templates={"default": "", **files.templates})
        families = _families(settings, files, info)
        builder = await asyncio.to_thread(_builder, settings, files, families)
    log.info(
        "Model %s. Reasoning parser: %s (%s). Tool-call parser: %s (%s).",
        _name(settings, info),
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


def _builder(settings: Settings, files: ModelFiles, families: Families) -> PromptBuilder:
    return PromptBuilder.load(
        files,
        markers(families.reasoning, families.tools),
        call_id=lambda name, number, public: family_call_id(families.tools, name, number, public),
        open_sealed=lambda text: text,  # Intake has opened what was sealed.
        cache_bytes=settings.tokenizer_cache_mib * 1024 * 1024,
    )


async def _files(
    settings: Settings, info: EngineInfo | None, pool: Pool | PdPool, folder: Path
) -> ModelFiles:
    """The model's files: as the flag names them, else as its workers do.

    A worker names a folder, which may be readable here; it may send its files; and the name may be
    a Hugging Face id.
    """
    template = Path(settings.chat_template) if settings.chat_template else None
    if settings.model_path:
        return await asyncio.to_thread(locate, settings.model_path, chat_template=template)
    told = [path for path in (info.tokenizer_path, info.model_path) if path] if info else []
    if readable := _readable(told):
        return await asyncio.to_thread(locate, readable, chat_template=template)
    refusal = await _unpack_tokenizer(pool, folder)
    if refusal is None:
        return locate(str(folder), hub_id_allowed=False, chat_template=template)
    for path in told:
        if not path.startswith(("/", ".")):
            return await asyncio.to_thread(locate, path, chat_template=template)
    raise ConfigError(
        "--model-path: name the model's folder or Hugging Face id; no worker told of one that can "
        f"be read here, nor sent its tokenizer ({refusal})"
    )


def _readable(paths: Sequence[str]) -> str | None:
    return next((path for path in paths if Path(path).is_dir()), None)


async def _unpack_tokenizer(pool: Pool | PdPool, folder: Path) -> str | None:
    """Have a worker send its tokenizer; why none did, if so."""
    reasons: list[str] = []
    for worker in pool.workers:
        if not isinstance(worker.engine, RemoteEngine):
            continue
        try:
            await worker.engine.unpack_tokenizer(folder)
        except EngineError as error:
            reasons.append(error.message)
            _empty(folder)  # What it sent before it failed must not be mixed with another's.
        else:
            log.info("Tokenizer sent by worker %s", worker.address)
            return None
    return "; ".join(reasons) or "no worker answers"


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)


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


def new_toolbox(settings: Settings, ties: Ties) -> Toolbox:
    """The MCP servers of the configuration file."""
    check_file(settings.mcp_config_path, "mcp_config_path")
    if settings.mcp_config_path is None:
        return Toolbox((), now, ties)
    return Toolbox(load(Path(settings.mcp_config_path), os.environ).servers, now, ties)


def now() -> int:
    """Unix seconds."""
    return int(time.time())
