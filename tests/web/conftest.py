"""One gateway for all tests of this folder: small bodies, two keys, no tools."""

from collections.abc import AsyncIterator

import pytest

from tests.e2e.gateway import Served
from tests.e2e.gateway import served as serve

KEYS = ("key-of-ann", "key-of-bob")


@pytest.fixture(scope="package")
async def served(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("gateway")
    async with serve(folder, tools=False, api_key=KEYS, max_body_mib=1) as running:
        running.http.headers["authorization"] = f"Bearer {KEYS[0]}"
        yield running
