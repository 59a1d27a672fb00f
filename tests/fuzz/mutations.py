"""How valid files are damaged: as bytes, and where they are JSON, also as values."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

# What readers stumble over.
TOKENS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\n", b"\r", b'"', b"'", b",", b"..", b"../", b"/", b"\\",
    b"-1", b"0", b"1e999", b"NaN", b"Infinity", b"9" * 5000, b"2147483648", b"18446744073709551616", b"null", b"true",
    b"[" * 2000, b"{}", b"[]", b"&a [", b"*a", b"<<: *a", b"!!python/name:os.system ", b"!!int _", b"2001-99-99",
    b"\x1b[31m", b"<script>", b"=1+1", b"\\ud800", b"good", b"\xe2\x80\xae",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**64, 10**400, float("inf"), float("nan"), "", "..", "../x", "/", "a\0b",
    "\ud800", "\x1b[31m", "<script>", "x" * 300, "null", [], {}, [[]], {"": None}, [None], ["a", "a"], "good",
)  # fmt: skip


def mutate(content: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """One to four faults in a file; `others` are what parts of it may be replaced with parts of."""
    for _ in range(random.randint(1, 4)):
        content = random.choice(_FAULTS)(content, random, others)
    return content


def _flip(content: bytes, random: Random, _: Sequence[bytes]) -> bytes:
    if not content:
        return content
    at = random.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]


def _truncate(content: bytes, random: Random, _: Sequence[bytes]) -> bytes:
    return content[: random.randint(0, len(content))]


def _insert(content: bytes, random: Random, _: Sequence[bytes]) -> bytes:
    at = random.randint(0, len(content))
    return content[:at] + random.choice(TOKENS) + content[at + random.choice((0, 0, 1, 4)) :]


def _splice(content: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    other = random.choice(others or [content])
    cut, begin = random.randint(0, len(content)), random.randint(0, len(other))
    return content[:cut] + other[begin:]


def _number(content: bytes, random: Random, _: Sequence[bytes]) -> bytes:
    """A size in a header that is another one."""
    width = random.choice((1, 2, 4, 8))
    at = random.randint(0, max(len(content) - width, 0))
    value = random.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), random.getrandbits(8 * width)))
    return content[:at] + value.to_bytes(width, random.choice(("big", "little"))) + content[at + width :]


def _json(content: bytes, random: Random, _: Sequence[bytes]) -> bytes:
    """Another value somewhere, or a key less or more; of a file that is no JSON a flipped bit."""
    try:
        parsed = json.loads(content)
        places = list(_places(parsed))
    except (ValueError, RecursionError):
        return _flip(content, random, ())
    if not places:
        return json.dumps(random.choice(VALUES)).encode()
    holder, key = random.choice(places)
    fault = random.randrange(4)
    if fault == 0:
        del holder[key]
    elif fault == 1 and isinstance(holder, dict):
        holder[random.choice(("", "a", "\ud800", "<b>", "__class__", "_target_"))] = random.choice(VALUES)
    else:
        holder[key] = random.choice(VALUES)
    try:
        return json.dumps(parsed).encode()
    except ValueError:  # a number of too many digits
        return content


def _places(value: Any) -> Any:
    """Every (container, key) below a value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in entries:
        yield value, key
        yield from _places(item)


_FAULTS: tuple[Callable[[bytes, Random, Sequence[bytes]], bytes], ...] = (
    _flip, _truncate, _insert, _insert, _splice, _number, _json, _json, _json,
)  # fmt: skip
