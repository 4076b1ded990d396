"""The secret beside the database."""

import stat
from pathlib import Path

import pytest

from smg.errors import ConfigError
from smg.seal import kept_secret


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "smg.seal"
    secret = kept_secret(path)
    assert kept_secret(path) == secret
    assert len(secret) == 32
    assert [each.name for each in tmp_path.iterdir()] == ["smg.seal"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("left", [b"", b"half a secret"])
def test_what_is_left_of_a_secret_is_not_taken_for_one(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "smg.seal"
    path.write_bytes(left)
    with pytest.raises(ConfigError, match="holds no secret"):
        kept_secret(path)
