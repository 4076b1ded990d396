"""Where a gateway keeps its state, when the settings do not say. Loads no library of its own."""

from pathlib import Path

import platformdirs

from smg.folders import make_folder
from smg.settings import Settings


def data_folder() -> Path:
    """The user's folder for what smg keeps."""
    return Path(platformdirs.user_data_dir("smg", appauthor=False))


def database_url(settings: Settings) -> str:
    """Where the state is kept: the setting, or a file in the user's data folder."""
    if settings.database_url:
        return settings.database_url
    make_folder(data_folder())
    return f"sqlite:///{data_folder() / 'smg.db'}"


def shown_url(url: str) -> str:
    """A database URL without its password."""
    scheme, is_url, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if is_url else url
