"""Reading files that come from elsewhere: of what is one, and no more than it may honestly hold."""

import errno
import json
import math
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

LARGEST_LIST = 256 * 2**20  # bytes of a file that names images; a million lines are half of it
LARGEST_TEXT = 2**18  # bytes of a file that a person writes
_LONGEST_NUMBER = 300  # digits; a float goes up to 308
_SHOWN = 20  # of them in a message


def check_regular(path: Path) -> None:
    """Raise OSError for what is no file: reading a pipe or a device may never end."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder fails by itself, in better words
        raise OSError(errno.EINVAL, "it is a pipe or a device and no file", str(path))


def read_bytes(path: Path, largest: int) -> bytes:
    """All of a file. Raises OSError, also for more than `largest` bytes."""
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"it has more than {largest:,} bytes", str(path))
    return content


def reason(error: Exception) -> str:
    """Why a file could not be read, without the file's name."""
    own = error.strerror if isinstance(error, OSError) else None
    return own or str(error) or type(error).__name__


def parse_json(content: str | bytes) -> Any:
    """JSON whose numbers all fit a float. Raises ValueError, also where it is nested too deeply."""
    try:
        return json.loads(content, parse_float=_real, parse_int=_whole, parse_constant=_real)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _real(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:_SHOWN]} is not a number")
    return number


def _whole(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"{text[:_SHOWN]}… is not a number")
    return int(text)


class _PlainLoader(yaml.SafeLoader):
    """YAML of plain values: without aliases, of which a few lines unfold to any size, and without keys given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError(f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ValueError(f"line {key_node.start_mark.line + 1}: the key {key!r} stands there twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(content: str) -> Any:
    """YAML of plain values. Raises ValueError for anything else: tags, aliases, a key that is given twice."""
    try:
        return yaml.load(content, _PlainLoader)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except Exception as error:  # the parser lets through what conversions of odd values stumble over
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
