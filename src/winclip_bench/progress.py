"""One display for a whole job: what is done, what came from the store, images per second and the time left.

On a terminal it is one line at the bottom that is drawn anew; anywhere else, in a file or on a dumb terminal, a line
now and then without control characters.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

from winclip_bench.errors import printable

SECONDS = 30.0  # between two lines where nothing can be drawn anew


class Progress:
    """Progress of one job; a context manager, which clears the display at the end.

    categories  name -> how many images there are to look at
    stream      standard error by default
    clock       seconds, monotonic

    >>> with Progress({"bolt": 4, "nut": 6}, sys.stdout, iter([0, 0, 40, 50]).__next__) as progress:
    ...     progress.begin("bolt")
    ...     progress.images(stored=1, encoded=1)
    ...     progress.end("bolt")
    0/2 categories · bolt 2/4 images, 1 from the store · 0.02 images/s · 03:20 left
    """

    def __init__(
        self,
        categories: Mapping[str, int],
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._categories, self._clock = categories, clock
        self._stream = sys.stderr if stream is None else stream
        self._finished = 0
        self._total = sum(categories.values())
        self._left = self._total  # images of categories that are not finished
        self._name, self._stored, self._encoded = "", 0, 0  # of the present category
        self._all_encoded, self._looked_at = 0, 0  # of this job; categories that were finished before do not count
        self._begun = self._said = self._clock()
        drawn = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        how: dict[str, Any] = {"bar_format": "{percentage:3.0f}%|{bar:10}| {desc}", "dynamic_ncols": True}
        self._bar = tqdm(total=self._total, file=self._stream, leave=False, **how) if drawn else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, name: str) -> None:
        """A category is next."""
        self._name, self._stored, self._encoded = name, 0, 0
        self._show()

    def images(self, stored: int, encoded: int) -> None:
        """So many more images of the present category were found in the store, and so many encoded."""
        self._stored += stored
        self._encoded += encoded
        self._all_encoded += encoded
        self._show()

    def end(self, name: str) -> None:
        """A category is over: finished, failed, or passed over because an earlier command had finished it."""
        self._left -= self._categories[name]
        self._looked_at += self._categories[name] if self._stored + self._encoded else 0
        self._finished += 1
        self._name, self._stored, self._encoded = "", 0, 0
        if self._bar is not None:
            self._show()

    def __str__(self) -> str:
        seconds = self._clock() - self._begun
        parts = [f"{self._finished}/{len(self._categories)} categories"]
        seen = 0
        if self._name:
            total = self._categories[self._name]
            seen = min(self._stored + self._encoded, total)
            parts.append(f"{printable(self._name)} {seen}/{total} images, {min(self._stored, total)} from the store")
        if self._all_encoded and seconds > 0:
            parts.append(f"{self._all_encoded / seconds:.2g} images/s")
        if (done := self._looked_at + seen) and seconds > 0:
            parts.append(f"{tqdm.format_interval(seconds * (self._left - seen) / done)} left")
        return " · ".join(parts)

    def _show(self) -> None:
        if self._bar is not None:
            seen = min(self._stored + self._encoded, self._categories.get(self._name, 0))
            self._bar.n = self._total - self._left + seen
            self._bar.set_description_str(str(self))
        elif (now := self._clock()) - self._said >= SECONDS:
            self._said = now
            print(self, file=self._stream, flush=True)
