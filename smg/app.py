"""The composition root: builds every part once, hands them down, and owns their lifetimes."""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from smg import __version__
from smg.chat import routes as chat
from smg.completions import routes as completions
from smg.conversations import routes as conversations
from smg.directory import ModelDirectory
from smg.discovery.fleet import Fleet
from smg.discovery.kubernetes import discovering
from smg.embeddings import routes as embeddings
from smg.errors import ConfigError, GatewayError
from smg.folders import make_folder
from smg.ids import new_id
from smg.lab import routes as lab
from smg.layers import Watched, new_doors, surrounded
from smg.mcp import routes as mcp
from smg.mcp.connection import Ties
from smg.mcp.reload import ConfigReload
from smg.mcp.request_servers import RequestServers
from smg.mcp.toolbox import Toolbox
from smg.measuring import sizes_measured
from smg.places import data_folder, database_url
from smg.registry import routes as registry
from smg.registry.roster import Roster
from smg.registry.workers import Registry, RegistryRules
from smg.responses import routes as responses
from smg.responses.approvals import ApprovalRoutes
from smg.responses.context import ApprovalRules
from smg.responses.kitchen import Kitchen
from smg.responses.recovery import Recovery
from smg.responses.runs import Durability, Runs
from smg.retention import Retention
from smg.sampler import Sampler
from smg.seal import Seal, kept_secret
from smg.settings import Settings
from smg.startup import new_limits, new_toolbox, now
from smg.storage.base import Store
from smg.storage.database import is_in_memory, sqlite_file
from smg.storage.sql import SqlStore
from smg.telemetry.calls import TimedServer, Told, label_of, timed
from smg.telemetry.counters import Telemetry
from smg.tracing import step
from smg.turn import ToolResult
from smg.web import health
from smg.web.auth import owner_check
from smg.web.doors import Doors
from smg.web.errors import on_bad_parameter, on_gateway_error, on_http_error
from smg.web.offers import ServerPolicy
from smg.web.tools import McpRequest

log = logging.getLogger(__name__)

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Everything that runs."""

    settings: Settings
    models: ModelDirectory
    toolbox: Toolbox
    reload_tools: ConfigReload
    store: Store
    runs: Runs
    recovery: Recovery
    doors: Doors
    """Closed at shutdown, before anything else is."""
    app: FastAPI


class ConfiguredTools:
    """The toolbox as intake sees it: tools, and what the operator says of each server."""

    def __init__(self, toolbox: Toolbox, brought: RequestServers, told: Told) -> None:
        """`told` hears of each call."""
        self._toolbox = toolbox
        self._brought = brought
        self._told = told
        self.tools = toolbox.tools

    async def call(self, server: str, name: str, arguments: str) -> ToolResult:
        """Run one call; a failing tool is a result, not an exception."""
        label = label_of(server, self._toolbox.labels)
        with step("tool call", server=label, tool=name):
            return await timed(label, self._told, self._toolbox.call(server, name, arguments))

    @property
    def default_labels(self) -> Sequence[str]:
        """Servers whose tools are offered without being named."""
        return self._toolbox.default_labels

    async def open(self, server: McpRequest, owner: str) -> TimedServer:
        """Reach a server that a request brings along."""
        opened = await self._brought.open(
            server.label,
            server.url or "",
            authorization=server.authorization,
            headers=server.headers,
            owner=owner,
            path=server.path,
        )
        return TimedServer(opened, self._told)

    @property
    def policies(self) -> Mapping[str, ServerPolicy]:
        """What the configuration says of each server."""
        specs = {label: self._toolbox.spec(label) for label in self._toolbox.labels}
        return {
            label: ServerPolicy(
                label=label,
                needs_approval=spec.approval.needed,
                builtin_type=spec.builtin_type,
                builtin_tool=spec.builtin_tool,
                internal=spec.internal,
            )
            for label, spec in specs.items()
        }


def _hosts(given: Sequence[str]) -> list[str]:
    """Hosts as the flag gives them: apart, or with commas between them."""
    return [host for text in given for host in text.split(",") if host]


def new_seal(settings: Settings) -> Seal:
    """The seal of this gateway: of the setting's secret, else of one kept beside the database."""
    if settings.seal_key:
        return Seal(settings.seal_key.encode())
    url = database_url(settings)
    if is_in_memory(url):
        return Seal(secrets.token_bytes(32))
    file = sqlite_file(url)
    folder = data_folder() if file is None else file.parent
    make_folder(folder)
    return Seal(kept_secret(folder / "smg.seal"))


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncGenerator[Gateway, None]:
    """A running gateway, without its listening socket; what is in it ends with the block.

    Raises:
        ConfigError: something about the set-up is wrong.
        GatewayError: the database, or a required MCP server, does not answer.
    """
    async with AsyncExitStack() as stack:
        brought = RequestServers(_hosts(settings.allow_request_mcp), now)
        stack.push_async_callback(brought.close)
        telemetry = Telemetry()
        fleet = Fleet(settings, os.environ, now(), telemetry)
        stack.push_async_callback(fleet.close)
        store = await stack.enter_async_context(opened_store(settings, telemetry))
        toolbox = new_toolbox(
            settings, Ties(ask=new_sampler(settings, fleet.models), pins=store.pins)
        )
        stack.push_async_callback(toolbox.close)
        seal = new_seal(settings)
        roster, _ = await asyncio.gather(start_fleet(fleet, settings, store, seal), toolbox.start())
        await stack.enter_async_context(discovering(settings, fleet, os.environ))
        models = fleet.models
        tools = ConfiguredTools(toolbox, brought, telemetry.called)
        doors = new_doors(settings, telemetry)
        runs = Runs(
            store=store,
            tools=tools,
            seal=seal,
            new_id=new_id,
            now=now,
            doors=doors,
            durability=new_durability(settings),
            strict=settings.strict_streams,
        )
        stack.push_async_callback(
            lambda: runs.close(doors.grace_left(settings.shutdown_grace_seconds))
        )
        kitchen = Kitchen(
            models=models,
            tools=tools,
            store=store,
            limits=new_limits(settings),
            new_id=new_id,
            now=now,
            seal=seal,
            approvals=ApprovalRules(new_id, now, settings.approval_expiry_secs),
            strict_calls=not settings.allow_unanswered_calls,
        )
        recovery = Recovery(runs, kitchen, lambda label, tool: is_idempotent(toolbox, label, tool))
        stack.push_async_callback(recovery.close)
        await recovery.start()
        await stack.enter_async_context(Retention(store, settings.retention_days, now))
        config = Path(settings.mcp_config_path) if settings.mcp_config_path else None
        reload = ConfigReload(config, os.environ, toolbox)
        app = new_app(settings, models, toolbox, kitchen, runs, doors)
        await stack.enter_async_context(
            surrounded(app, settings, Watched(models, doors, runs.states), telemetry)
        )
        app.include_router(
            mcp.Routes(
                toolbox=toolbox, reload=reload, owner_of=owner_check(settings.api_key)
            ).router()
        )
        app.include_router(worker_routes(settings, fleet, roster))
        yield Gateway(
            settings=settings,
            models=models,
            toolbox=toolbox,
            reload_tools=reload,
            store=store,
            runs=runs,
            recovery=recovery,
            doors=doors,
            app=app,
        )


@asynccontextmanager
async def opened_store(settings: Settings, telemetry: Telemetry) -> AsyncGenerator[SqlStore, None]:
    """The store of the settings, open and measured for as long as the block lasts.

    Raises:
        ConfigError: the URL is wrong, or the database belongs to a newer gateway.
        StorageError: the database does not answer.
    """
    url = database_url(settings)
    store = await SqlStore.open(
        url,
        synchronous="full" if settings.synchronous == "full" else "normal",
        told=telemetry.stored,
    )
    try:
        async with sizes_measured(telemetry, store, sqlite_file(url)):
            yield store
    finally:
        await store.close()


async def start_fleet(fleet: Fleet, settings: Settings, store: Store, seal: Seal) -> Roster | None:
    """Start the workers of the flags, and those that an earlier run has remembered; where they are.

    Without a roster none are remembered.
    """
    await fleet.start()
    if not settings.persist_workers:
        return None
    roster = Roster(store.workers, seal)
    await fleet.take_back(await roster.all())
    return roster


def worker_routes(settings: Settings, fleet: Fleet, roster: Roster | None) -> APIRouter:
    """The endpoints that change the fleet.

    Raises:
        ConfigError: who has a client's key would have the admin's.
    """
    if settings.admin_key and settings.admin_key in settings.api_key:
        raise ConfigError("--admin-key: it must not be one of the clients' keys (--api-key)")
    # As long as a response may take: what runs is never cut off.
    rules = RegistryRules(drain_s=settings.response_timeout_secs, processes=settings.processes)
    return registry.Routes(
        registry=Registry(fleet, rules, roster),
        admin_key=settings.admin_key,
        max_body_bytes=settings.max_body_mib * MIB,
    ).router()


def new_sampler(settings: Settings, models: ModelDirectory) -> Sampler:
    """Who answers the questions of tool servers that may ask."""
    return Sampler(models=models, limits=new_limits(settings), new_id=new_id, now=now)


def new_durability(settings: Settings) -> Durability:
    """How hard responses hold on to life."""
    return Durability(
        lease_seconds=settings.lease_seconds,
        on_disconnect="cancel" if settings.on_disconnect == "cancel" else "continue",
        on_restart="continue" if settings.on_restart == "continue" else "fail",
        on_unknown_outcome="ask" if settings.on_unknown_outcome == "ask" else "error",
    )


def is_idempotent(toolbox: Toolbox, label: str, tool: str) -> bool:
    """Whether the operator says that a tool may safely be called twice."""
    return label in toolbox.labels and tool in toolbox.spec(label).idempotent_tools


def new_app(
    settings: Settings,
    models: ModelDirectory,
    toolbox: Toolbox,
    kitchen: Kitchen,
    runs: Runs,
    doors: Doors,
) -> FastAPI:
    """The web application over these parts."""
    app = FastAPI(title="smg", version=__version__, docs_url="/docs", redoc_url=None)
    owner_of = owner_check(settings.api_key)
    store = kitchen.store
    max_body = settings.max_body_mib * MIB
    app.include_router(
        responses.Routes(kitchen, runs, owner_of, max_body, settings.websocket_max_secs).router()
    )
    app.include_router(ApprovalRoutes(kitchen, runs, owner_of, max_body).router())
    app.include_router(
        conversations.Routes(
            store=store, new_id=new_id, now=now, owner_of=owner_of, max_body_bytes=max_body
        ).router()
    )
    app.include_router(
        chat.Routes(
            models=models,
            tools=toolbox,
            limits=kitchen.limits,
            new_id=new_id,
            now=now,
            owner_of=owner_of,
            max_body_bytes=max_body,
        ).router()
    )
    app.include_router(
        completions.Routes(
            models=models,
            tools=toolbox,
            limits=kitchen.limits,
            new_id=new_id,
            now=now,
            owner_of=owner_of,
            max_body_bytes=max_body,
        ).router()
    )
    app.include_router(
        embeddings.Routes(models=models, owner_of=owner_of, max_body_bytes=max_body).router()
    )
    app.include_router(lab.Routes(owner_of=owner_of, max_body_bytes=max_body).router())
    app.include_router(
        health.new_router(models, lambda: store.damage, doors.closing.is_set, owner_of)
    )
    app.add_exception_handler(GatewayError, on_gateway_error)
    app.add_exception_handler(RequestValidationError, on_bad_parameter)
    app.add_exception_handler(HTTPException, on_http_error)
    return app
