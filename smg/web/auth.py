"""Who is asking: API keys, and the owner that every stored row belongs to."""

import hashlib
import hmac
from collections.abc import Callable, Sequence

from starlette.requests import HTTPConnection

from smg.errors import Unauthorized

OwnerOf = Callable[[HTTPConnection], str]


def owner_check(keys: Sequence[str]) -> OwnerOf:
    """A check for these API keys; each is an owner of its own. No keys: everybody is one."""
    digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def owner_of(request: HTTPConnection) -> str:
        if not digests:
            return ""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(given.strip().encode()).digest()
        # Every key is compared, in constant time: timing must not tell how close a guess was.
        found = [known for known in digests if hmac.compare_digest(known, digest)]
        if scheme.lower() != "bearer" or not found:
            raise Unauthorized("Incorrect or missing API key (Authorization: Bearer ...).")
        return found[0].hex()[:32]

    return owner_of
