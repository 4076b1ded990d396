"""Text that clients keep for us: sealed, so that they can neither read nor change it.

A blob is bound to its purpose and its owner: what was sealed for one is nothing to another. It is
authenticated before anything in it is looked at.
"""

import base64
import binascii
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from smg.errors import ConfigError
from smg.folders import keep_names

_MAGIC = b"smg1"
_NONCE_BYTES = 12
_SECRET_BYTES = 32


class NotOurs(ValueError):
    """Raised when a blob was not sealed here for this purpose and owner."""


class Seal:
    """Seals with one key."""

    def __init__(self, secret: bytes) -> None:
        """`secret` may be of any length; the key is derived from it."""
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"smg seal").derive(secret)
        self._cipher = AESGCM(key)

    def seal(self, purpose: str, owner: str, text: str) -> str:
        """The text as an opaque blob of URL-safe characters."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, text.encode(), _bound(purpose, owner))
        return base64.urlsafe_b64encode(_MAGIC + nonce + sealed).decode()

    def open(self, purpose: str, owner: str, blob: str) -> str:
        """The text in a blob.

        Raises:
            NotOurs: it was not sealed with this key for this purpose and owner.
        """
        try:
            raw = base64.urlsafe_b64decode(blob.encode())
            nonce, sealed = raw[4 : 4 + _NONCE_BYTES], raw[4 + _NONCE_BYTES :]
            if raw[:4] != _MAGIC:
                raise NotOurs("not a blob of this gateway")
            return self._cipher.decrypt(nonce, sealed, _bound(purpose, owner)).decode()
        except (binascii.Error, ValueError, InvalidTag) as error:
            raise NotOurs("not a blob of this gateway") from error


def _bound(purpose: str, owner: str) -> bytes:
    return f"{purpose}\0{owner}".encode()


def kept_secret(path: Path) -> bytes:
    """The secret in a file of the user's own; made when it is not there.

    Raises:
        ConfigError: the file does not hold a secret.
    """
    if not path.exists():
        descriptor, draft = tempfile.mkstemp(prefix=path.name, dir=path.parent)  # Mode 0600.
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())  # A name without its bytes would be an empty secret.
            # Appears whole: of gateways that start together one wins, and nobody reads half of it.
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            os.unlink(draft)
        keep_names(path.parent)
    secret = path.read_bytes()
    if len(secret) < _SECRET_BYTES:
        raise ConfigError(
            f"{str(path)!r} holds no secret of {_SECRET_BYTES} bytes: put back the one that was "
            "there, or remove the file; reasoning that was sealed with the old one is then lost"
        )
    return secret
