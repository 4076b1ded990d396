"""The stand-in servers of the engines' tests."""

from tests.engines.conftest import stand_in_process

__all__ = ["stand_in_process"]
