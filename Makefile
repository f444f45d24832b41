# make figures   set up, then test the paper's properties offline on embedded models (figures/report.html)
# make test      set up, then run every default check
PYTHON ?= python3
BIN := .venv/bin

# Embedded models need no hub; a test that asked for one should fail, not wait.
figures bench test test-tl39 test-slow test-gpu test-train: export HF_HUB_OFFLINE = 1

.PHONY: figures bench test test-tl39 test-slow test-gpu test-train format clean
.DEFAULT_GOAL := figures

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

figures: .venv/.installed
	$(BIN)/python experiments/figures.py --out figures

# Against the reference procedure; about an hour. Smaller: experiments/benchmark.py --quick.
bench: .venv/.installed
	$(BIN)/python experiments/benchmark.py --out figures

test: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/pytest

# The last TransformerLens with HookedTransformer: the core suite, and its scores against those of the bridge.
.venv-tl39/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-tl39
	.venv-tl39/bin/pip install --quiet --disable-pip-version-check --editable . "transformer-lens==3.9.0" \
		pytest hypothesis scipy compressed-tensors
	@touch $@

test-tl39: .venv-tl39/.installed
	.venv-tl39/bin/pytest tests/model/test_hooked.py tests/model/test_engine.py tests/model/test_load.py

test-slow: .venv/.installed
	$(BIN)/pytest -m slow

test-gpu: .venv/.installed
	$(BIN)/pytest -m gpu

# Over an hour: a model trained anew must have the skills on its card.
test-train: .venv/.installed
	$(BIN)/pytest -m train

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-tl39 build dist .pytest_cache .ruff_cache
