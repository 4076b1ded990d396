"""The configuration file: what is read, and one message for each mistake."""

import json
from pathlib import Path
from typing import Any

import pytest

from smg.errors import ConfigError
from smg.mcp.config import McpConfig, load
from smg.mcp.spec import (
    Approval,
    Command,
    Endpoint,
    OAuth,
    SamplingLimits,
    Secret,
    ServerSpec,
)

ROOT = Path(__file__).parents[2]


def read(folder: Path, document: Any, environ: dict[str, str] | None = None) -> McpConfig:
    path = folder / "mcp.json"
    path.write_text(json.dumps(document))
    return load(path, environ or {})


def server(folder: Path, entry: dict[str, Any], **environ: str) -> ServerSpec:
    (spec,) = read(folder, {"mcpServers": {"one": entry}}, environ).servers
    return spec


def endpoint(spec: ServerSpec) -> Endpoint:
    assert isinstance(spec.transport, Endpoint)
    return spec.transport


def test_a_process_as_desktop_clients_write_it(tmp_path: Path) -> None:
    entry = {"command": "npx", "args": ["-y", "thing"], "env": {"KEY": "v"}, "cwd": "data"}
    assert server(tmp_path, entry) == ServerSpec(
        label="one",
        transport=Command(
            program="npx",
            args=("-y", "thing"),
            env={"KEY": Secret("v")},
            cwd=str(tmp_path / "data"),
        ),
    )


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        ({}, "streamable"),
        ({"type": "http"}, "streamable"),
        ({"type": "streamableHttp"}, "streamable"),
        ({"type": "streamable-http"}, "streamable"),
        ({"type": "sse"}, "sse"),
    ],
)
def test_a_url_as_desktop_clients_write_it(
    tmp_path: Path, kind: dict[str, str], protocol: str
) -> None:
    spec = server(tmp_path, {"url": "https://x.test/mcp", "headers": {"X-Key": "k"}} | kind)
    transport = endpoint(spec)
    assert transport.protocol == protocol
    assert transport.url.reveal() == "https://x.test/mcp"
    assert transport.headers == {"X-Key": Secret("k")}


def test_the_list_of_the_reference_product(tmp_path: Path) -> None:
    path = tmp_path / "mcp.yaml"
    path.write_text(
        """
servers:
  - name: search
    protocol: streamable
    url: https://search.test/mcp
    token: ${TOKEN}
    required: true
    internal: false
    proxy: http://proxy.test:3128
    tools:
      web_search_exa: {alias: search_web, response_format: passthrough}
  - name: files
    protocol: stdio
    command: mcp-files
    args: [--port, 8080]
    envs: {ROOT: /srv}
  - {name: old, protocol: sse, url: "http://old.test/sse"}
"""
    )
    search, files, old = load(path, {"TOKEN": "sk-token"}).servers
    assert endpoint(search).headers == {"Authorization": Secret("Bearer sk-token")}
    assert endpoint(search).proxy == Secret("http://proxy.test:3128")
    assert search.required
    assert search.aliases == {"web_search_exa": "search_web"}
    assert files.transport == Command(
        program="mcp-files", args=("--port", "8080"), env={"ROOT": Secret("/srv")}
    )
    assert endpoint(old).protocol == "sse"


def test_our_own_options(tmp_path: Path) -> None:
    entry = {
        "command": "x",
        "timeout_s": "${SECONDS}",
        "connect_timeout_s": 2,
        "default": True,
        "description": "d",
        "allowed_tools": ["a", "b"],
        "require_approval": "always",
        "idempotent_tools": ["a"],
        "max_concurrency": 3,
        "max_output_bytes": 4096,
    }
    spec = server(tmp_path, entry, SECONDS="7.5")
    assert spec == ServerSpec(
        label="one",
        transport=Command(program="x"),
        timeout_s=7.5,
        connect_timeout_s=2,
        default=True,
        description="d",
        allowed_tools=frozenset({"a", "b"}),
        approval=Approval(default=True),
        idempotent_tools=frozenset({"a"}),
        max_concurrency=3,
        max_output_bytes=4096,
        secrets=frozenset({"7.5"}),
    )


@pytest.mark.parametrize(
    ("said", "waiting"),
    [
        ("never", set()),
        ("always", {"a", "b", "c"}),
        ({"always": ["a"]}, {"a"}),
        ({"never": ["a"]}, {"b", "c"}),
        ({"always": ["a"], "never": ["b"]}, {"a", "c"}),
        ({"always": ["a"], "never": ["a"]}, {"a", "b", "c"}),
    ],
)
def test_which_tools_wait_for_approval(tmp_path: Path, said: Any, waiting: set[str]) -> None:
    spec = server(tmp_path, {"command": "x", "require_approval": said})
    assert {tool for tool in "abc" if spec.approval.needed(tool)} == waiting


LIMITS = {"model": "small", "max_tokens": 64, "max_requests": 2, "timeout_s": 1.5}


@pytest.mark.parametrize(
    ("said", "limits"),
    [
        (False, None),
        (True, SamplingLimits()),
        ("${MAY_ASK}", SamplingLimits()),
        ({}, SamplingLimits()),
        ({"max_requests": 2}, SamplingLimits(max_requests=2)),
        (LIMITS, SamplingLimits(model="small", max_tokens=64, max_requests=2, timeout_s=1.5)),
    ],
)
def test_whether_and_how_much_a_server_may_ask_the_model(
    tmp_path: Path, said: Any, limits: SamplingLimits | None
) -> None:
    spec = server(tmp_path, {"command": "x", "sampling": said}, MAY_ASK="true")
    assert spec.sampling == limits
    assert server(tmp_path, {"command": "x"}).sampling is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "one"),
        ("<${A}${B}>", "<onetwo>"),
        ("${NONE:-x}", "x"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY}", ""),
        ("${NONE:-}", ""),
        ("$A $$ $", "$A $$ $"),
        ("$${A}", "${A}"),
    ],
)
def test_references_to_the_environment(tmp_path: Path, text: str, value: str) -> None:
    spec = server(tmp_path, {"command": "x", "args": [text]}, A="one", B="two", EMPTY="")
    assert spec.transport == Command(program="x", args=(value,))


def test_a_server_that_stands_in_for_a_hosted_tool(tmp_path: Path) -> None:
    entry = {
        "command": "x",
        "internal": True,
        "builtin_type": "web_search_preview",
        "builtin_tool_name": "search",
        "on_change": "hold",
    }
    spec = server(tmp_path, entry)
    assert (spec.builtin_type, spec.builtin_tool) == ("web_search_preview", "search")
    assert spec.internal
    assert spec.on_change == "hold"
    renamed = server(tmp_path, entry | {"tools": {"search": {"alias": "web"}}})
    assert renamed.builtin_tool == "web"


def test_two_servers_may_stand_in_for_one_tool_if_one_is_off(tmp_path: Path) -> None:
    entry = {"command": "x", "builtin_type": "file_search"}
    document = {"mcpServers": {"a": entry, "b": entry | {"disabled": True}}}
    assert [spec.label for spec in read(tmp_path, document).servers] == ["a"]


def test_an_account_at_an_authorization_server(tmp_path: Path) -> None:
    spec = server(tmp_path, {"url": "https://x.test/mcp", "oauth": OAUTH | {"scope": "read"}})
    assert endpoint(spec).oauth == OAuth(
        client_id="a", client_secret=Secret("sk-b"), scope="read", issuer="https://auth.test"
    )
    assert "sk-b" not in repr(spec)


def test_a_disabled_server_is_left_out(tmp_path: Path) -> None:
    document = {"mcpServers": {"off": {"command": "${NOT_SET}", "disabled": True}}}
    assert read(tmp_path, document) == McpConfig()


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    spec = server(
        tmp_path,
        {
            "url": "https://me:sk-password@x.test/${PATH_KEY}/mcp?key=sk-query",
            "headers": {"X-Key": "sk-header"},
            "token": "${TOKEN}",
        },
        TOKEN="sk-token",
        PATH_KEY="sk-path",
    )
    assert spec.address == "https://x.test/***/mcp"
    shown = repr(spec) + spec.redact("sk-password sk-query sk-header sk-token sk-path 'Bearer x'")
    assert "sk-" not in shown
    assert "sk-" not in repr(
        server(tmp_path, {"command": "x", "args": ["sk-a"], "env": {"K": "sk-b"}})
    )


MISTAKES: list[tuple[Any, str]] = [
    ([], "must be a mapping with the key"),
    ({}, "names no servers"),
    ({"mcpServers": []}, "mcpServers: must be a mapping"),
    ({"servers": {"a": {}}}, "servers: must be a list"),
    ({"servers": [], "pool": {}}, "pool: each server has one connection"),
    ({"servers": [], "sevrers": []}, "sevrers: is not a known key"),
    ({"servers": [{"command": "x"}]}, "servers[0]: the name '' must be"),
    ({"mcpServers": {"my server": {"command": "x"}}}, "the name 'my server' must be"),
    (
        {"mcpServers": {"a": {"command": "x"}}, "servers": [{"name": "a", "command": "y"}]},
        "servers[0]: there are two servers named 'a'",
    ),
    (
        {
            "mcpServers": {
                "a": {"command": "x", "builtin_type": "web_search"},
                "b": {"command": "y", "builtin_type": "web_search_preview"},
            }
        },
        "mcpServers.b.builtin_type: the server 'a' stands in for this already",
    ),
]

OAUTH = {"client_id": "a", "client_secret": "sk-b", "issuer": "https://auth.test"}

WRONG_ENTRIES: list[tuple[Any, str]] = [
    ("x", "mcpServers.one: Input should be"),
    ({}, "mcpServers.one: needs either `command` or `url`"),
    ({"command": "x", "name": "two"}, "mcpServers.one.name: this server is already named 'one'"),
    ({"command": "x", "url": "http://x"}, "mcpServers.one: needs either `command` or `url`"),
    ({"command": "x", "type": "pigeon"}, "mcpServers.one.type: is not a known transport"),
    ({"command": "x", "type": "sse"}, "mcpServers.one.type: stdio goes with `command`"),
    ({"url": "http://x", "protocol": "stdio"}, "mcpServers.one.type: stdio goes with"),
    ({"command": "x", "headers": {}}, "mcpServers.one.headers: does not go with `command`"),
    ({"url": "http://x", "args": []}, "mcpServers.one.args: does not go with `url`"),
    ({"url": "ftp://x"}, "mcpServers.one.url: must be an http:// or https:// URL"),
    ({"url": "http://x:port"}, "mcpServers.one.url: must be an http:// or https:// URL"),
    ({"url": "http://x", "proxy": "socks"}, "mcpServers.one.proxy: must be an http://"),
    ({"url": "http://x", "proxy": {"http": "http://p"}}, "mcpServers.one.proxy: write `proxy` as"),
    (
        {"url": "http://x", "headers": {"A": "b\r\nC: d"}},
        "mcpServers.one.headers.'A': is no header",
    ),
    ({"url": "http://x", "headers": {"A:": "b"}}, "mcpServers.one.headers.'A:': is no header"),
    (
        {"url": "http://x", "token": "t", "headers": {"authorization": "u"}},
        "mcpServers.one.token: is the Authorization header",
    ),
    ({"command": "x", "args": ["a\0"]}, "mcpServers.one.args[0]: holds a NUL"),
    ({"command": "x", "env": {"A=B": "c"}}, "mcpServers.one.env: 'A=B' cannot be"),
    ({"command": "x", "env": {"A": True}}, "mcpServers.one.env.A: Input should be a valid string"),
    ({"command": "x", "timeout_s": 0}, "mcpServers.one.timeout_s: Input should be greater"),
    ({"command": "x", "max_concurrency": 0}, "mcpServers.one.max_concurrency: Input should be"),
    ({"command": "x", "autoApprove": []}, "mcpServers.one.autoApprove: is not a known key"),
    (
        {"command": "x", "builtin_type": "image_generation"},
        "mcpServers.one.builtin_type: Input should be 'web_search'",
    ),
    (
        {"command": "x", "builtin_tool_name": "search"},
        "mcpServers.one.builtin_tool_name: goes with `builtin_type`",
    ),
    (
        {
            "command": "x",
            "builtin_type": "web_search",
            "builtin_tool_name": "s",
            "allowed_tools": ["t"],
        },
        "mcpServers.one.builtin_tool_name: is not one of `allowed_tools`",
    ),
    ({"command": "x", "internal": True}, "mcpServers.one.internal: goes with `builtin_type`"),
    (
        {"command": "x", "internal": True, "default": True, "builtin_type": "file_search"},
        "mcpServers.one.internal: does not go with `default`",
    ),
    ({"command": "x", "on_change": "panic"}, "mcpServers.one.on_change: Input should be 'warn'"),
    ({"command": "x", "sampling": "often"}, "mcpServers.one.sampling: Input should be a valid"),
    (
        {"command": "x", "sampling": {"max_tokens": 0}},
        "mcpServers.one.sampling.max_tokens: Input should be greater",
    ),
    (
        {"command": "x", "sampling": {"tools": True}},
        "mcpServers.one.sampling.tools: is not a known",
    ),
    ({"command": "x", "oauth": OAUTH}, "mcpServers.one.oauth: does not go with `command`"),
    ({"url": "http://x", "oauth": {}}, "mcpServers.one.oauth.client_id: is missing"),
    (
        {"url": "http://x", "oauth": {"client_id": "a", "client_secret": "b"}},
        "mcpServers.one.oauth: needs either `issuer` or `token_url`",
    ),
    (
        {"url": "http://x", "oauth": OAUTH | {"token_url": "https://a"}},
        "mcpServers.one.oauth: needs either `issuer` or `token_url`",
    ),
    (
        {"url": "http://x", "oauth": OAUTH | {"issuer": "auth.test"}},
        "mcpServers.one.oauth.issuer: must be an http:// or https:// URL",
    ),
    (
        {"url": "http://x", "token": "t", "oauth": OAUTH},
        "mcpServers.one.oauth: sets the Authorization header",
    ),
    (
        {"command": "x", "tools": {"t": {"arg_mapping": {"renames": {}}}}},
        "mcpServers.one.tools.t.arg_mapping: arguments are not rewritten",
    ),
    (
        {"command": "x", "tools": {"t": {"response_format": "web_search_call"}}},
        "mcpServers.one.tools.t.response_format: only 'passthrough'",
    ),
    (
        {"command": "x", "tools": {"t": {"alias": "a"}, "u": {"alias": "a"}}},
        "mcpServers.one.tools.u.alias: 'a' is given to two tools",
    ),
    (
        {"command": "x", "args": ["${NONE}"]},
        "mcpServers.one.args[0]: the environment variable NONE",
    ),
    ({"command": "x", "env": {"K": "${env:X}"}}, "mcpServers.one.env.K: cannot follow '${env:X}'"),
    ({"command": "${X"}, "mcpServers.one.command: cannot follow '${X'"),
]


@pytest.mark.parametrize(
    ("document", "message"),
    MISTAKES + [({"mcpServers": {"one": entry}}, message) for entry, message in WRONG_ENTRIES],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, document)
    lines = str(raised.value).splitlines()
    assert any(line.startswith(f"{tmp_path / 'mcp.json'}: ") and message in line for line in lines)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    document = {"mcpServers": {"a": {"command": "${X}", "nope": 1}, "b": {"url": "x"}}}
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, document)
    assert len(str(raised.value).splitlines()) == 3


def test_a_wrong_value_from_the_environment_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        server(tmp_path, {"url": "${URL}", "timeout_s": "${T}"}, URL="sk-url", T="sk-time")
    assert "sk-" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mcp.json", "{", "is not valid JSON"),
        ("mcp.json", '{"mcpServers": {}, "mcpServers": {}}', "'mcpServers' stands twice"),
        ("mcp.yaml", "servers: [", "is not valid YAML"),
        ("mcp.yaml", "servers: []\nservers: []\n", "'servers' stands twice"),
        ("mcp.yaml", "servers: !!python/name:os.system\n", "is not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / name, {})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.json", {})


def test_the_example_names_the_calculator() -> None:
    (calculator,) = load(ROOT / "mcp-config.example.json", {}).servers
    assert calculator.label == "calculator"
    assert calculator.default
