"""A relay between a client in another process and the gateway, so that a cassette can listen.

The client speaks to the relay, the relay forwards with httpx, which vcrpy records and replays.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import httpx
from vcr.errors import CannotOverwriteExistingCassetteException

HOP_BY_HOP = {"host", "connection", "content-length", "accept-encoding", "transfer-encoding"}
LIMIT_SECONDS = 30.0


@contextmanager
def relay(base_url: str) -> Iterator[str]:
    """A base URL that leads to this one, as long as the block lasts.

    Raises:
        AssertionError: a client sent what is not on the cassette.
    """
    unexpected: list[str] = []
    target = base_url.removesuffix(urlsplit(base_url).path)

    class Forward(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: object) -> None:
            """Say nothing: the gateway logs."""

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            kept = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
            try:
                answer = httpx.request(
                    self.command,
                    target + self.path,
                    content=body,
                    headers=kept,
                    timeout=LIMIT_SECONDS,
                )
            except CannotOverwriteExistingCassetteException as error:
                unexpected.append(str(error))
                self.answer(400, "text/plain", str(error).encode())
                return
            self.answer(answer.status_code, answer.headers["content-type"], answer.content)

        do_GET = do_POST = do_DELETE = forward  # noqa: N815 - names of the standard library.

        def answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Forward) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{urlsplit(base_url).path}"
        finally:
            server.shutdown()
    assert not unexpected, "\n".join(unexpected)
