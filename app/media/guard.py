"""What media may be reached: public addresses of the net, and files under folders that were allowed.

The address that is connected to is the one that was checked, so an answer of the DNS that changes in between
changes nothing. A file is opened folder by folder from an allowed one, and no link is followed on the way.
"""

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from app.errors import InvalidRequest, Unavailable

Resolver = Callable[..., list[Any]]
"""socket.getaddrinfo, or what stands in for it."""

ADDRESSES = 4
"""Of a name that are tried at most."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""The last 32 bits are an IPv4 address (RFC 6052), which is looked at instead."""
REFUSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "100.64.0.0/10", "168.63.129.16/32", "169.254.0.0/16", "192.0.0.0/24", "192.88.99.0/24",
        "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4", "::/8", "100::/8", "2001::/23", "2001:db8::/32",
        "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
"""Beside what Python's ipaddress calls not global, which has gaps: 6to4, Teredo, site-local and more.

168.63.129.16 tells each machine on Azure about itself; the metadata addresses of others are in these nets.
"""


def is_public(address: str) -> bool:
    """Whether an address, IPv4 or IPv6, belongs to the public net and to no tunnel into another one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found in NAT64:
            return is_public(str(ipaddress.IPv4Address(found.packed[-4:])))
        if found.packed[8:12] in (b"\0\0\x5e\xfe", b"\x02\0\x5e\xfe"):  # ISATAP: IPv4 in the last 32 bits
            return False
    return found.is_global and not any(found.version == net.version and found in net for net in REFUSED)


def connect(
    host: str,
    port: int,
    seconds: float,
    param: str,
    *,
    internal: bool,
    resolve: Resolver,
    know: Callable[[socket.socket], None],
) -> socket.socket:
    """A connection to a host, to one of its addresses that was checked; `internal` hosts may be anywhere.

    The first few addresses share the seconds. `know` is told of each socket before it connects, and raises
    OSError if nothing is to be connected to any more. Raises InvalidRequest for a host that is not public,
    in the same words whatever is there, and OSError.
    """
    found = resolve(host, port, type=socket.SOCK_STREAM)
    if not internal and not all(is_public(str(place[4][0])) for place in found):
        raise InvalidRequest(
            "The URL's host is not on the public net, and --allowed-media-domain does not name it.",
            param=param,
            code="media_not_allowed",
        )
    problem: OSError = OSError("the name has no address")
    tries = found[:ADDRESSES]
    for family, kind, protocol, _, address in tries:
        line = socket.socket(family, kind, protocol)
        try:
            line.settimeout(seconds / len(tries))
            know(line)
            line.connect(address)
        except OSError as error:
            with contextlib.suppress(OSError):  # who knows it has a copy, which would go on
                line.shutdown(socket.SHUT_RDWR)
            line.close()
            problem = error
        else:
            return line
    raise problem


def open_file(path: str, roots: Sequence[str], param: str) -> BinaryIO:
    """A file under one of the roots, links in it resolved; a relative path begins at each root in turn.

    Raises InvalidRequest: in the same words for all that is outside, be there something or not. So `..` is
    taken from the text, and nothing outside is looked at. Raises Unavailable if too many files are open.
    """
    if "\0" in path or "\\" in path or path.startswith("//"):
        raise _refused(param)
    for root in roots:
        try:
            real = os.path.realpath(root)
            steps = _below(path, os.path.abspath(root)) or _below(path, real)
            resolved = _below(os.path.realpath(os.path.join(real, steps)), real) if steps else None
            if resolved:
                return _opened(real, resolved.split(os.sep), param)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise Unavailable("The server has too many files open.") from None
    raise _refused(param)


def _below(path: str, root: str) -> str | None:
    """The way from a folder to a path by their texts, None if it leads outside."""
    whole = os.path.normpath(os.path.join(root, path))
    start = root.rstrip(os.sep) + os.sep
    return whole[len(start) :] or None if whole.startswith(start) else None


def _refused(param: str) -> InvalidRequest:
    return InvalidRequest(
        "The path names no file that may be read: only files under --allowed-media-path are.",
        param=param,
        code="media_not_allowed",
    )


def _opened(root: str, steps: Sequence[str], param: str) -> BinaryIO:
    """The file at the end of the steps from root, none of which may be a link."""
    with _folder(root, steps[:-1]) as folder:
        # Without O_NONBLOCK a named pipe would be waited for.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(steps[-1], flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InvalidRequest("The path names no ordinary file.", param=param, code="media_not_allowed")
    return os.fdopen(file, "rb")


@contextlib.contextmanager
def _folder(root: str, steps: Sequence[str]) -> Iterator[int]:
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in steps:
            below = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)
