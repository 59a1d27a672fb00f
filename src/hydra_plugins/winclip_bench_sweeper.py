"""Where Hydra looks for sweepers: only what lies in this package may be one."""

from winclip_bench.sweep import CategorySweeper


class WinclipBenchSweeper(CategorySweeper):
    """See `winclip_bench.sweep`."""
