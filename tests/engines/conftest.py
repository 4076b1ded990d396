"""Stand-in servers, one process for each protocol, started when first needed."""

from collections.abc import Callable, Iterator

import pytest

from tests.engines.stand_in import Process

pytest.register_assert_rewrite("tests.contracts.engine")


@pytest.fixture(scope="session")
def stand_in_process() -> Iterator[Callable[[str], Process]]:
    """The server of a stub module; it lasts for the whole session."""
    running: dict[str, Process] = {}

    def process(module: str) -> Process:
        if module not in running:
            running[module] = Process(module)
        return running[module]

    yield process
    for started in running.values():
        started.end()
