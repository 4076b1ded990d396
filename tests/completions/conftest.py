"""One gateway for all tests of this folder."""

from collections.abc import AsyncIterator

import pytest

from tests.e2e.gateway import Served
from tests.e2e.gateway import served as serve


@pytest.fixture(scope="package")
async def served(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with serve(tmp_path_factory.mktemp("gateway"), tools=False) as running:
        yield running
