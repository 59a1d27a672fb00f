# make demo: the embedded demo, from nothing. make test: every check, from nothing. make parity: agreement with anomalib.
# make audit: known vulnerabilities of the pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PARITY := .parity

.PHONY: demo test lint types unit audit parity clean

demo: $(INSTALLED)
	$(BIN)/python run.py

test: lint types unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# Two processes of one thread each: the tests are many and small. Modules stay whole, with what they make once.
unit: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder

audit: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'pip-audit>=2.7'
	$(BIN)/python scripts/audit.py

# Takes a few GB and some minutes. IMAGES=<a category in MVTec's layout>; nothing else depends on this environment.
parity: $(INSTALLED) $(PARITY)/.installed
	$(BIN)/python scripts/parity.py --environment $(PARITY) $(if $(IMAGES),--images "$(IMAGES)")

$(PARITY)/.installed: scripts/parity_requirements.txt
	$(BIN)/python -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --requirement scripts/parity_requirements.txt
	touch $@

# Exactly the tested versions; `pip install .` alone takes the ranges of pyproject.toml.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "Python 3.11 to 3.13 is needed, not " + sys.version.split()[0] + "; call make PYTHON=python3.12, for example")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]' setuptools
	touch $@

clean:
	rm -rf $(VENV) $(PARITY) build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
