# make train | test | check | tensorboard. Another Python: make PYTHON=python3.12 train
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: train test check tensorboard
.DEFAULT_GOAL := train

train: $(VENV)/.installed  ## Train on the built-in sample.
	$(BIN)/python -m segunet.train

test: $(VENV)/.installed-dev  ## Run the tests.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

check: $(VENV)/.installed-dev  ## Lint, formatting, types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tensorboard: $(VENV)/.installed  ## Show every run, also while it trains.
	$(BIN)/tensorboard --logdir outputs

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
