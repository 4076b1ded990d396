"""The store contract, on every kind of database that conftest opens."""

from tests.contracts.store import *  # noqa: F403 - the suite
