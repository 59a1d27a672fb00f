"""Run the harness from a checkout: `python run.py`, `python run.py -m k_shot=0,1,2,4 dataset=mvtec,visa`."""

from winclip_bench.cli import command

if __name__ == "__main__":
    command()
