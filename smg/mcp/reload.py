"""The configuration file read again while the gateway runs: on demand, and at SIGHUP.

A file with a mistake changes nothing. Knows neither HTTP nor who may ask.
"""

import asyncio
import logging
import signal
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from smg.errors import ConfigError, StorageError
from smg.mcp.config import load
from smg.mcp.toolbox import Reloaded, Toolbox

_log = logging.getLogger(__name__)


class ConfigReload:
    """Brings a toolbox to what the file says now."""

    def __init__(self, path: Path | None, environ: Mapping[str, str], toolbox: Toolbox) -> None:
        self._path = path
        self._environ = environ
        self._toolbox = toolbox
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self) -> Reloaded:
        """Read the file and go over to it.

        Raises:
            ConfigError: there is no file, or it has mistakes; nothing has changed.
            StorageError: the servers are the new ones, but their tools could not be approved.
        """
        if self._path is None:
            raise ConfigError("the gateway was started without --mcp-config-path")
        async with self._one_at_a_time:
            config = await asyncio.to_thread(load, self._path, self._environ)
            reloaded = await self._toolbox.reload(config.servers)
        _log.info("MCP servers read again from %s: %s", self._path, reloaded)
        return reloaded


@contextmanager
def reloading_at_hangup(reload: ConfigReload) -> Generator[None, None, None]:
    """Read the file again at SIGHUP, for as long as the context is open; in the main thread."""
    tasks: set[asyncio.Task[None]] = set()

    async def read_again() -> None:
        try:
            await reload()
        except ConfigError as error:
            _log.error("MCP servers stay as they are: %s", error)
        except StorageError as error:
            _log.error("MCP servers are the new ones, but not approved: %s", error)

    def heard() -> None:
        task = asyncio.create_task(read_again())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    if not hasattr(signal, "SIGHUP"):  # Windows.
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, heard)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        for task in tasks:
            task.cancel()
