"""Files that may be anything."""

import errno
import stat
from pathlib import Path


def check_plain(path: Path) -> None:
    """Raise OSError for a pipe or a device, whose reading might never end; also for what is not there."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # that a folder is one is said when it is opened
        raise OSError(errno.EINVAL, "it is not a file but a pipe or a device", str(path))
