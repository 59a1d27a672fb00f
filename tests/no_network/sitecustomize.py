"""Python without a network: a process that has this folder on PYTHONPATH reaches nothing but its own machine.

Python runs this file when it starts. An audit hook refuses what leads elsewhere before anything is sent, and cannot be
taken out again. Each refusal is also noted in the file that the environment variable below names, because many a
client passes over an error in silence.
"""

import errno
import ipaddress
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

NOTES = "WINCLIP_BENCH_TESTS_REACHED_FOR"
_ADDRESSED = {"socket.connect", "socket.sendto", "socket.sendmsg"}  # the socket, then the address
_NAMED = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}


def is_here(host: object) -> bool:
    """Whether a host is this machine: no name at all, ``localhost``, or a loopback address.

    >>> [is_here(host) for host in ("", "localhost", "127.0.0.9", "::1", b"localhost", None)]
    [True, True, True, True, True, True]
    >>> [is_here(host) for host in ("192.0.2.1", "example.org", "::ffff:192.0.2.1", "localhost.example.org")]
    [False, False, False, False]
    """
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if name is None or name in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(str(name).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event in _ADDRESSED:
        address = arguments[1]
        # Of a connected socket None; of other families than IP a path, or numbers that lead to no other machine.
        host = address[0] if isinstance(address, tuple) and address and isinstance(address[0], str) else None
    elif event in _NAMED:
        first = arguments[0]
        host = first[0] if isinstance(first, tuple) else first
    else:
        return
    if is_here(host):
        return
    sentence = f"tests use no network, and {event} was to reach {host!r}"
    if notes := os.environ.get(NOTES):
        with Path(notes).open("a", encoding="utf-8") as file:
            file.write(f"{sentence}, in {sys.argv[:3]}\n")
    raise OSError(errno.ENETUNREACH, sentence)


def _run_the_next_one() -> None:
    """Another sitecustomize of this Python, which this one hides."""
    own = Path(__file__).resolve().parent
    spec = PathFinder.find_spec("sitecustomize", [place for place in sys.path if Path(place).resolve() != own])
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


if not hasattr(sys, "_winclip_bench_tests_have_no_network"):
    sys._winclip_bench_tests_have_no_network = True  # type: ignore[attr-defined]
    sys.addaudithook(_refuse)
    if __name__ == "sitecustomize":
        _run_the_next_one()
