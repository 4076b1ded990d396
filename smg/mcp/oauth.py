"""The gateway's own account at a tool server: requests go out with a token, got when it is needed.

With an `issuer`, the SDK finds the authorization server through the server's metadata, and shows
the secret to that issuer only. With a `token_url`, tokens come from there and nothing is looked
for. Tokens live in memory. What a server says about where to go is not trusted: addresses the
operator did not write are reached through the guard (smg.mcp.egress).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx2
from mcp.client.auth import TokenStorage
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from smg.errors import ToolServerError
from smg.mcp.egress import EgressTransport
from smg.mcp.spec import Endpoint, OAuth

# Before a token's end it is no longer sent: clocks differ, and requests travel.
_MARGIN_SECONDS = 30.0


def new_auth(endpoint: Endpoint) -> httpx2.Auth | None:
    """What adds tokens to requests to an endpoint; nothing where there is no account."""
    oauth = endpoint.oauth
    if oauth is None:
        return None
    if oauth.token_url is not None:
        return TokenAuth(oauth, oauth.token_url)
    return ClientCredentialsOAuthProvider(
        server_url=endpoint.url.reveal(),
        storage=_Memory(),
        client_id=oauth.client_id,
        client_secret=oauth.client_secret.reveal(),
        scope=oauth.scope,
        issuer=oauth.issuer,
    )


class GuardedOthers(httpx2.AsyncBaseTransport):
    """Reaches the origins an operator wrote wherever they are, and others on the internet only."""

    def __init__(self, endpoint: Endpoint, direct: httpx2.AsyncBaseTransport) -> None:
        oauth = endpoint.oauth
        written = [endpoint.url.reveal()]
        written += [url for url in (oauth.issuer, oauth.token_url) if url] if oauth else []
        self._written = {_origin(httpx2.URL(url)) for url in written}
        self._direct = direct
        self._guarded = EgressTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request."""
        known = _origin(request.url) in self._written
        return await (self._direct if known else self._guarded).handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._direct.aclose()
        await self._guarded.aclose()


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


class TokenAuth(httpx2.Auth):
    """Client credentials at one known address."""

    def __init__(
        self, oauth: OAuth, token_url: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._oauth = oauth
        self._token_url = token_url
        self._clock = clock
        self._token = ""
        self._expires_at = 0.0
        self._asking = asyncio.Lock()

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Send a request with a token; when it is refused, once more with a new one."""
        for is_last in (False, True):
            async with self._asking:  # One question is enough for all who wait.
                if self._clock() >= self._expires_at:
                    response = yield self._question()
                    await response.aread()
                    self._take(response)
            token = self._token
            request.headers["Authorization"] = f"Bearer {token}"
            response = yield request
            if response.status_code != 401 or is_last:
                return
            if token == self._token:  # Nobody else has got a new one meanwhile.
                self._expires_at = 0.0

    def _question(self) -> httpx2.Request:
        fields = {"grant_type": "client_credentials"}
        if self._oauth.scope is not None:
            fields["scope"] = self._oauth.scope
        account = httpx2.BasicAuth(self._oauth.client_id, self._oauth.client_secret.reveal())
        request = httpx2.Request(
            "POST", self._token_url, data=fields, headers={"Accept": "application/json"}
        )
        return next(account.sync_auth_flow(request))

    def _take(self, response: httpx2.Response) -> None:
        """Keep the token of an answer.

        Raises:
            ToolServerError: there is none in it. What there is may be secret, and is not told.
        """
        try:
            answer: Any = response.json() if response.status_code == 200 else None
            self._token = str(answer["access_token"])
            lasts = float(answer.get("expires_in") or 3600)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            why = f"its token_url answered with status {response.status_code} and no token"
            raise ToolServerError(why) from error
        self._expires_at = self._clock() + max(1.0, lasts - _MARGIN_SECONDS)


class _Memory(TokenStorage):
    """Tokens for as long as a connection lasts."""

    def __init__(self) -> None:
        self._tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Not kept: the account is in the configuration."""
