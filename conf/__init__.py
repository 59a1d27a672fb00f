"""The configuration, as a package so that it can be read wherever the harness is installed."""
