"""Running something with little memory and time, so that what would take all of it fails instead."""

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def confined(function: Callable[[], Any], megabytes: int = 256, seconds: int = 30) -> Any:
    """What a function returns, as JSON has it, run in a copy of this process.

    megabytes  that the copy may have beside what this process has
    """
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest may run in it
        code = 1
        try:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            limit = pages * os.sysconf("SC_PAGE_SIZE") + megabytes * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            signal.alarm(seconds)
            with os.fdopen(send, "w") as pipe:
                json.dump(function(), pipe)
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(send)
    with os.fdopen(receive) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"it took more than {megabytes} MB or {seconds} s, or failed (status {status})"
    return json.loads(answer)
