"""Folders, and names in them, that a power loss does not take back. Standard library only."""

import errno
import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, for their owner only; they are there after a power loss.

    Raises:
        OSError: one of them cannot be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for each in missing:
        keep_names(each.parent)


def keep_names(folder: Path) -> None:
    """Return when the names in a folder are on the disk: syncing a file does not promise its name.

    Raises:
        OSError: the folder cannot be read, or the disk does not answer.
    """
    if os.name == "nt":  # Folders cannot be opened there.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Some file systems know no such thing.
            raise
    finally:
        os.close(descriptor)
