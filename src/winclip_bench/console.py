"""Standard output and standard error as a command finds them: closed, on a full disk, or a pipe that nobody reads.

What is computed is worth more than what is said about it: words that cannot be written are dropped, and work goes on.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class Sturdy:
    """A stream that goes on when it cannot be written; ``lost`` is then why, and nothing is tried again."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.lost: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """As of any stream."""
        self._attempt("write", text)
        return len(text)

    def flush(self) -> None:
        """As of any stream."""
        self._attempt("flush")

    def isatty(self) -> bool:
        """As of any stream."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, method: str, *arguments: str) -> None:
        if self._stream is None or self.lost is not None:
            return
        try:
            getattr(self._stream, method)(*arguments)
        except (OSError, ValueError) as error:  # the latter from a stream that somebody has closed
            self.lost = error
            # What is still in the buffer would fail once more when Python ends.
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextmanager
def sturdy_streams() -> Iterator[Sturdy]:
    """Nothing that is printed meanwhile raises; the standard output, to be asked what became of it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file would get this number, and whatever C libraries print into it
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    out, err = Sturdy(sys.stdout), Sturdy(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
