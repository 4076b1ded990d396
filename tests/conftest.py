"""What every test shares."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio: uvicorn, grpc.aio and SQLAlchemy need it."""
    return "asyncio"
