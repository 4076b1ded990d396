"""The hosts on which requests may name tool servers: the operator's list, and URLs held to it.

Entries and URLs come in as text; a checked URL goes out. Looks up no name and connects to nothing:
what a name leads to is checked when the connection is made (smg.mcp.egress).
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from smg.errors import ConfigError, InvalidRequest

FLAG = "--allow-request-mcp"

_MAX_URL = 2048
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?"
_ENTRY = re.compile(rf"(?P<host>{_NAME}|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?")
# All that parsers have read differently is not in here: no user part, no backslash, no escape in
# the host, no dot behind it, nothing invisible. What is left has one meaning.
_URL = re.compile(rf"(?P<scheme>[A-Za-z]+)://(?P<place>{_ENTRY.pattern})(?P<rest>(?:[/?][!-~]*)?)")
_FORBIDDEN_IN_REST = frozenset('\\#"<>^`{|}')


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """One host of the list."""

    host: str
    port: int | None
    """The only port; `None`: that of https, and on this machine any."""

    @property
    def is_loopback(self) -> bool:
        """Whether this is the gateway's own machine, by its name or address."""
        address = _address(self.host)
        return self.host == "localhost" or (address is not None and address.is_loopback)

    def takes(self, port: int) -> bool:
        """Whether this entry lets a port be reached."""
        return port in (
            (self.port,) if self.port else range(1, 65536) if self.is_loopback else (443,)
        )


class AllowedHosts:
    """The operator's list. Empty: requests may name no server of their own."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Read the entries: `host`, `host:port`, an address; IPv6 with a port in brackets.

        Raises:
            ConfigError: an entry is none of these.
        """
        self._entries = tuple(_read_entry(entry) for entry in entries)

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def private(self) -> frozenset[str]:
        """Hosts that may lie inside: those the operator wrote as an address, or as localhost."""
        return frozenset(
            entry.host
            for entry in self._entries
            if entry.is_loopback or _address(entry.host) is not None
        )

    def check(self, url: str, path: str) -> str:
        """The URL to connect to, if requests may.

        Raises:
            InvalidRequest: they may not; the error names the field `path`.
        """
        if not self:
            raise _refused(path, f"requests may name no MCP servers here (start with {FLAG} HOST)")
        found = _URL.fullmatch(url) if len(url) <= _MAX_URL else None
        if found is None or not _FORBIDDEN_IN_REST.isdisjoint(found["rest"]):
            raise _refused(path, "expected a plain ASCII URL, https://host/path, without a user")
        scheme, host = found["scheme"].lower(), _canonical(found["host"])
        if scheme not in ("http", "https"):
            raise _refused(path, "expected an https:// URL")
        port = int(found["port"] or (443 if scheme == "https" else 80))
        entries = [entry for entry in self._entries if entry.host == host]
        if not entries:
            raise _refused(path, f"the host {host!r} is not one of those {FLAG} names")
        if scheme == "http" and not entries[0].is_loopback:
            raise _refused(path, "only https is allowed")
        if not any(entry.takes(port) for entry in entries):
            raise _refused(path, f"the port {port} of {host!r} is not one that {FLAG} names")
        return f"{scheme}://{_bracketed(host)}:{port}{found['rest'] or '/'}"


def _refused(path: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{path}': {why}.", param=path)


def _read_entry(entry: str) -> AllowedHost:
    if (address := _address(entry)) is not None:
        return AllowedHost(str(address), None)
    found = _ENTRY.fullmatch(entry)
    host = _canonical(found["host"]) if found else ""
    port = int(found["port"]) if found and found["port"] else None
    # A name whose last part begins with a digit is read as an address by some: 0x7f.1, 2130706433.
    odd = host.rpartition(".")[2][:1].isdigit() or host.startswith("[")
    if not host or (odd and _address(host) is None) or not (port is None or 0 < port < 65536):
        raise ConfigError(f"{FLAG}: {entry!r} is no host, host:port or IP address")
    return AllowedHost(host, port)


def _canonical(host: str) -> str:
    """One spelling for each host: lower case, addresses as Python writes them, no brackets."""
    bare = host.removeprefix("[").removesuffix("]")
    address = _address(bare)
    if address is None or (address.version == 6) != host.startswith("["):
        return host.lower()
    return str(address)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
