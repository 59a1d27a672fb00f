"""Let freed memory be used again instead of being given back to the system.

By default the C library maps every tensor above 32 MB anew, and touching its pages costs up to a sixth of encoding an
image on a CPU. `mallopt` is public API of the GNU C library; elsewhere nothing happens, and everything works.
"""

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LIMIT = 2**30  # bytes


@cache
def keep_freed_memory() -> bool:
    """Serve allocations below 1 GiB from memory that stays with the process; returns whether that could be set."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LIMIT)) and bool(mallopt(_M_TRIM_THRESHOLD, _LIMIT))
