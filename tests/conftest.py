"""What every test shares."""

import pytest
from hypothesis import settings

# How busy the machine is says nothing about the code: no example has a deadline.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio: uvicorn, grpc.aio and SQLAlchemy need it."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def one_event_loop(anyio_backend: str) -> None:
    """Hold anyio's runner, and with it its loop, until the last test.

    grpc.aio has one poller for the process, and it delivers what is left of a finished call to the
    loop that made the call: if that is closed, the next test fails with "Event loop is closed".
    """


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let golden transcripts be written anew; the diff is the review."""
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")
