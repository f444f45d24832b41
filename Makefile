PYTHON ?= python3
BIN := .venv/bin
SAMPLE ?= 200
SEED ?= 0

# Embedded models need no hub; a test that asked for one should fail, not wait.
figures bench coverage mutate docs test test-tl39 test-slow test-gpu test-train: export HF_HUB_OFFLINE = 1

.PHONY: figures test coverage mutate docs bench test-tl39 test-slow test-gpu test-train format hooks clean help
.DEFAULT_GOAL := figures

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

.venv-tl39/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-tl39
	.venv-tl39/bin/pip install --quiet --disable-pip-version-check --editable . "transformer-lens==3.9.0" \
		pytest hypothesis scipy compressed-tensors
	@touch $@

.venv/.mutation: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[mutation]"
	@touch $@

figures: .venv/.installed   ## set up, then test the paper's claims offline on embedded models: figures/report.html
	$(BIN)/python experiments/figures.py --out figures

test: .venv/.installed   ## set up, then run every default check (ten minutes)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/pytest

test-tl39: .venv-tl39/.installed   ## the engine's tests on TransformerLens 3.9, the last with HookedTransformer
	.venv-tl39/bin/pytest tests/model/test_hooked.py tests/model/test_engine.py tests/model/test_load.py

test-slow: .venv/.installed   ## the slow tests
	$(BIN)/pytest -m slow

test-gpu: .venv/.installed   ## what needs a GPU
	$(BIN)/pytest -m gpu

test-train: .venv/.installed   ## train a model anew, for over an hour: it must have the skills on its card
	$(BIN)/pytest -m train

coverage: .venv/.installed   ## the default tests, and which lines they leave out; fails below 90 %
	$(BIN)/pytest --cov=rhlens --cov-report=term-missing:skip-covered --cov-fail-under=90

mutate: .venv/.mutation   ## which small changes to results, tasks and measure their tests miss (SAMPLE=200 of each; 0: all)
	for folder in results tasks measure; do \
		$(BIN)/python tests/mutation.py $$folder --sample $(SAMPLE) --seed $(SEED) || failed=1; \
	done; test -z "$$failed"

bench: .venv/.installed   ## against the reference procedure, about 40 minutes (experiments/benchmark.py --quick: smaller)
	$(BIN)/python experiments/benchmark.py --out figures

docs: .venv/.installed   ## the API reference, from the docstrings: build/docs/index.html
	$(BIN)/python -c "from rhlens import *; from pdoc.__main__ import cli; cli()" \
		--docformat google --no-show-source --output-directory build/docs rhlens

format: .venv/.installed   ## format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

hooks: .venv/.installed   ## run the quick checks before every commit
	$(BIN)/pre-commit install

clean:   ## remove what make made
	rm -rf .venv .venv-tl39 build dist .pytest_cache .ruff_cache

help:   ## this list
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/^([a-z0-9-]+):.*## */make \1@/' | column -t -s @
