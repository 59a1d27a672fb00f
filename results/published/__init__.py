"""Published numbers, as a package so that they can be read wherever the harness is installed."""
