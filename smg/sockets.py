"""The address a gateway listens on. Loads nothing, so that a taken port is told at once."""

import socket

from smg.errors import ConfigError
from smg.settings import Settings


def bind(settings: Settings, *, shared: bool = False) -> socket.socket:
    """The socket to listen on; `shared` leaves room on the port for other processes of this user.

    Raises:
        ConfigError: the address is taken, or not of this machine, or ports cannot be shared here.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        where = f"{settings.host}:{settings.port}"
        raise ConfigError(f"--host, --port: cannot listen on {where}: {error.strerror}") from error
    return listening
