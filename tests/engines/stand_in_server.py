"""A stand-in for an engine: its real protocol over a real socket, a script instead of a model.

Run as `stand_in_server.py MODULE [TLS_FOLDER]`, MODULE being a stub module of the published
smg-grpc-proto. It must never be imported beside `smg.engines`: both packages describe the same
messages, and protobuf takes each name once per process.

The first line it prints has its two ports. On the control port it takes one script a line and
says there, one JSON object a line, every call it receives and every call that is cancelled.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
import smg_grpc_proto
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class Stage:
    """The script of the moment, and whoever is listening."""

    def __init__(self) -> None:
        self.script: dict[str, Any] = {}
        self.listener: asyncio.StreamWriter | None = None
        self.going_on = asyncio.Event()

    def say(self, **fact: Any) -> None:
        if self.listener is not None:
            self.listener.write(json.dumps(fact).encode() + b"\n")

    async def direct(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.listener = writer
        while line := await reader.readline():
            order = json.loads(line)
            if "script" in order:
                self.script = order["script"]
                self.going_on.clear()
            if "go_on" in order:
                self.going_on.set()
            self.say(done=True)
        writer.close()


def handlers(service: Any, stage: Stage) -> grpc.GenericRpcHandler:
    """Every unary method, Generate, and SubscribeKvEvents; the others stay unimplemented."""
    found = {
        method.name: unary(method, stage)
        for method in service.methods
        if not method.server_streaming
    }
    found["Generate"] = streaming(service.methods_by_name["Generate"], stage)
    if "SubscribeKvEvents" in service.methods_by_name:
        found["SubscribeKvEvents"] = telling(service.methods_by_name["SubscribeKvEvents"], stage)
    return grpc.method_handlers_generic_handler(service.full_name, found)


def unary(method: Any, stage: Stage) -> "grpc.RpcMethodHandler[Any, Any]":
    answer = GetMessageClass(method.output_type)

    async def handle(request: Any, call: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        stage.say(call=method.name, request=plain(request))
        status = stage.script.get("statuses", {}).get(method.name)
        if status == "WAIT":
            try:
                await asyncio.Event().wait()
            finally:
                stage.say(cancelled=method.name)
        if status:
            await call.abort(grpc.StatusCode[status], "as scripted")
        return ParseDict(stage.script.get("answers", {}).get(method.name, {}), answer())

    return grpc.unary_unary_rpc_method_handler(
        handle, GetMessageClass(method.input_type).FromString, answer.SerializeToString
    )


def streaming(method: Any, stage: Stage) -> "grpc.RpcMethodHandler[Any, Any]":
    response = GetMessageClass(method.output_type)

    async def handle(
        request: Any, call: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[Any]:
        stage.say(call=method.name, request=plain(request))
        ended = False
        try:
            for step in stage.script.get("generate", []):
                match step:
                    case {"status": status}:
                        ended = True
                        await call.abort(grpc.StatusCode[status], "as scripted")
                    case {"wait": _}:
                        await stage.going_on.wait()
                    case {"exit": code}:
                        os._exit(code)
                    case {"repeat": times, **said}:
                        message: Any = ParseDict(cast(dict[str, Any], said), response())
                        message.chunk.token_ids.extend(list(message.chunk.token_ids) * times)
                        yield message
                    case _:
                        yield ParseDict(step, response())
            ended = True
        finally:  # Cancelled while it waits, or closed while a message is on its way.
            if not ended:
                stage.say(cancelled=request.request_id)

    return grpc.unary_stream_rpc_method_handler(
        handle, GetMessageClass(method.input_type).FromString, response.SerializeToString
    )


def telling(method: Any, stage: Stage) -> "grpc.RpcMethodHandler[Any, Any]":
    """Batches as scripted, and then the status; without a script it is as unimplemented."""
    response = GetMessageClass(method.output_type)

    async def handle(
        request: Any, call: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[Any]:
        stage.say(call=method.name, request=plain(request))
        for batch in stage.script.get("answers", {}).get(method.name, []):
            yield ParseDict(batch, response())
        status = stage.script.get("statuses", {}).get(method.name, "UNIMPLEMENTED")
        await call.abort(grpc.StatusCode[status], "as scripted")

    return grpc.unary_stream_rpc_method_handler(
        handle, GetMessageClass(method.input_type).FromString, response.SerializeToString
    )


def plain(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


def credentials(folder: Path) -> grpc.ServerCredentials:
    """TLS that asks the client for a certificate of the same authority."""
    return grpc.ssl_server_credentials(
        [((folder / "server.key").read_bytes(), (folder / "server.crt").read_bytes())],
        root_certificates=(folder / "ca.crt").read_bytes(),
        require_client_auth=True,
    )


async def serve(module: str, tls: str | None) -> None:
    descriptor = getattr(smg_grpc_proto, module).DESCRIPTOR
    (service,) = descriptor.services_by_name.values()
    stage = Stage()
    server = grpc.aio.server(options=UNLIMITED)
    server.add_generic_rpc_handlers((handlers(service, stage),))
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials(Path(tls)))
    await server.start()
    control = await asyncio.start_server(stage.direct, "127.0.0.1", 0, limit=2**24)
    address = control.sockets[0].getsockname()
    sys.stdout.write(json.dumps({"port": port, "control": address[1]}) + "\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
