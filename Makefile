# Everything lives in .venv; no system package is needed, not even a C compiler (ziglang links).
PYTHON ?= python3
DEMO_OUTPUT ?= demo
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STARTED := $(shell date +%s)

.DEFAULT_GOAL := help
.PHONY: help demo test lint format clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: $(VENV)/.installed-demo ## Compile a bundled model for this machine and for arm64, run, verify and time it
	@demo_started=$$(date +%s); \
	$(BIN)/lutc demo --output $(DEMO_OUTPUT) || exit $$?; \
	ended=$$(date +%s); \
	echo "demo: $$((ended - demo_started)) s; with installation: $$((ended - $(STARTED))) s"

test: $(VENV)/.installed-all ## Run all tests; AArch64 ones need qemu and say so when they skip
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-all ## Check formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-all ## Format the code and apply safe lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment, caches and the demo's output
	rm -rf $(VENV) $(DEMO_OUTPUT) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find lutc tvm_ext tests tutorials -name __pycache__ -prune -exec rm -rf {} +

# The stamps make installation happen once, and again when the dependencies change.
$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --retries 10 -e ".[bench,cross]"
	@touch $@

$(VENV)/.installed-all: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --retries 10 -e ".[all]"
	@touch $@ $(VENV)/.installed-demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
