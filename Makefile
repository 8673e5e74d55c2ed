# Every target does its own set-up: a virtual environment in $(VENV), filled with the extras
# that the target needs. Nothing but Python 3.11 or newer and make has to be there.
#
#   make demo        two providers in bad weather, one minute to read
#   make test        the test suite              make test ARGS="-k breaker"
#   make lint        formatter, linter, type checkers
#   make docs        the documentation, in site/
#   make coverage    the same tests, and which branches of the core they do not reach
#   make soak        a minute of everything at once; make soak ARGS="--seconds 600 --seed 2"
#   make mutants     the core broken in 2,400 ways, and whether the tests notice (half an hour)
#   make bench       what a healthy call costs, beside an empty wrapper
#   make clean       take the environment and everything built away

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

# Whoever names a Python gets that one; otherwise the first that is new enough.
PYTHONS := $(if $(filter file,$(origin PYTHON)),python3 python3.13 python3.12 python3.11,$(PYTHON))

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DELETE_ON_ERROR:
.PHONY: demo test lint lint-style lint-types docs coverage soak mutants bench clean

demo: $(READY)-demo
	$(BIN)/resilient-llm demo $(ARGS)

test: $(READY)-test
	$(BIN)/python -m pytest $(ARGS)

lint: lint-style lint-types

lint-style: $(READY)-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: $(READY)-lint
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/mypy

docs: $(READY)-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

coverage: $(READY)-test
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage report --include='resilient_llm/_core/*' --fail-under=98

soak: $(READY)-test
	$(BIN)/python tests/soak.py $(ARGS)

mutants: $(READY)-mutants
	$(BIN)/python tests/mutants.py $(ARGS)

bench: $(READY)-bench
	$(BIN)/python benchmarks/healthy.py $(ARGS)

clean:
	rm -rf $(VENV) build dist site mutants .coverage .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks

# A stamp per set of extras, so that what is there is not asked for again. The type checkers
# want to see everything that the package and its tests import.
extras-demo := demo
extras-test := test
extras-lint := lint,test,docs
extras-docs := docs
extras-bench := test
extras-mutants := mutants

$(READY)-%: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[$(extras-$*)]'
	@touch $@

# The first Python that runs, is new enough, and can make a virtual environment.
$(VENV)/pyvenv.cfg:
	@for python in $(PYTHONS); do \
	    if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        echo "$$python -m venv $(VENV)"; \
	        exec $$python -m venv $(VENV); \
	    fi; \
	done; \
	echo "This needs Python 3.11 or newer with its venv module." >&2; \
	echo "Tried: $(PYTHONS). On Debian: apt install python3-venv." >&2; \
	echo "Another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13" >&2; \
	exit 1
