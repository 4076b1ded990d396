"""Which hosts requests may name servers on."""

import pytest

from smg.errors import ConfigError, InvalidRequest
from smg.mcp.hosts import AllowedHosts

HOSTS = AllowedHosts(
    [
        "mcp.test",
        "Other.Test:8443",
        "127.0.0.1:8931",
        "localhost",
        "10.1.2.3",
        "[::1]:99",
        "fd00::1",
    ]
)


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://mcp.test", "https://mcp.test:443/"),
        ("HTTPS://MCP.test/Path/x?q=a%20b&c", "https://mcp.test:443/Path/x?q=a%20b&c"),
        ("https://mcp.test:443?q", "https://mcp.test:443?q"),
        ("https://other.test:8443/mcp", "https://other.test:8443/mcp"),
        ("http://127.0.0.1:8931/mcp", "http://127.0.0.1:8931/mcp"),
        ("http://localhost/mcp", "http://localhost:80/mcp"),
        ("http://localhost:5000/mcp", "http://localhost:5000/mcp"),
        ("https://10.1.2.3/mcp", "https://10.1.2.3:443/mcp"),
        ("http://[0:0:0:0:0:0:0:1]:99/", "http://[::1]:99/"),
        ("https://[FD00::1]/", "https://[fd00::1]:443/"),
    ],
)
def test_what_the_list_names_is_allowed(url: str, checked: str) -> None:
    assert HOSTS.check(url, "p") == checked


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://mcp.test/", "only https"),
        ("http://10.1.2.3/", "only https"),
        ("ftp://mcp.test/", "expected an https:// URL"),
        ("https://mcp.test:8443/", "the port 8443"),
        ("https://other.test/", "the port 443"),
        ("http://127.0.0.1/", "the port 80"),
        ("https://mcp.test:0/", "the port 0"),
        ("http://localhost:0/", "the port 0"),
        ("https://mcp.test:99999/", "the port 99999"),
        ("https://else.test/", "'else.test' is not one of those --allow-request-mcp names"),
        ("https://" + "a" * 3000, "plain ASCII URL"),
    ],
)
def test_a_refusal_names_the_field_and_the_reason(url: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        HOSTS.check(url, "tools[0].server_url")
    assert raised.value.param == "tools[0].server_url"
    assert raised.value.message.startswith("Invalid 'tools[0].server_url': ")
    assert why in raised.value.message


def test_without_a_list_the_flag_is_named() -> None:
    assert not AllowedHosts([])
    with pytest.raises(InvalidRequest, match="start with --allow-request-mcp"):
        AllowedHosts([]).check("https://mcp.test/", "p")


def test_only_what_was_written_as_an_address_may_lie_inside() -> None:
    assert HOSTS.private == {"127.0.0.1", "localhost", "10.1.2.3", "::1", "fd00::1"}


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.test",
        "https://mcp.test",
        "mcp.test/",
        "mcp.test:0",
        "mcp.test:70000",
        "mcp.test:x",
        "me@mcp.test",
        "mcp.test.",
        ".test",
        "0x7f.1",
        "2130706433",
        "127.1",
        "[::1",
        "[mcp.test]",
        "[127.0.0.1]",
        "mcp test",
        "mcp\u00e9.test",
    ],
)
def test_an_entry_that_is_no_host_stops_the_gateway(entry: str) -> None:
    with pytest.raises(ConfigError, match="--allow-request-mcp"):
        AllowedHosts([entry])
