# `make demo` and `make test` on a fresh machine with Python >= 3.10 need nothing else.
#   PYTHON=python3.12            another interpreter for the virtual environment
#   PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"    where pip finds CPU builds of torch
#   ARGS="--seed 1"              options for the demo's job, or for pytest

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
BIN := .venv/bin

.PHONY: demo test faults soak lint clean

demo: .venv/demo.stamp
	$(BIN)/python jobs/run_al.py $(ARGS)

# Two at a time: half of their time tests wait for processes to start and to be killed. In the
# order of their names, in which long ones do not come last.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# What takes too long for `make test`: kills of everybody in every stage, every damage to every file, and the like.
faults: .venv/dev.stamp
	$(BIN)/python -m pytest -m "not soak" tests/faults $(ARGS)
	$(BIN)/python -m pytest -m faults --ignore=tests/faults $(ARGS)

soak: .venv/dev.stamp
	$(BIN)/python -m pytest -m soak -s tests/faults/test_soak.py $(ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff check halo_ray jobs tests
	$(BIN)/ruff format --check halo_ray jobs tests
	$(BIN)/mypy

.venv/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e .
	touch $@

.venv/dev.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv
