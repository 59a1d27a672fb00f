"""Run the harness from a checkout: `python run.py`, `python run.py -m k_shot=0,1,2,4 dataset=mvtec,visa`."""

import sys

from winclip_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
