# Every target does its own set-up: a virtual environment in $(VENV), filled with the extras
# that the target needs. Nothing but Python 3.11 or newer and make has to be there.
#
#   make demo        an outage of seven fake providers, offline, about 25 seconds once installed;
#                    make demo ARGS="--workers 4" for processes that share a store
#   make test        the test suite, on all cores; make test ARGS="-k breaker", ARGS="-m 'not slow'"
#   make system-tests  the admin page in Debian's chromium, rules in its prometheus, stores on its
#                      redis-server; fails if a part of the system is missing
#   make pictures    the screenshots in docs/img, and the picture of the demo
#   make lint        formatter, linter, type checkers
#   make docs        the documentation, in site/
#   make coverage    the tests of the core but the slow ones, and which of its branches they do not reach
#   make test-most   the tests but the slow ones
#   make corpus      every recorded error through every real client; make corpus SET=oldest, litellm, instructor
#   make apps        exceptions of web frameworks, task queues and agents, raised by the real ones,
#                    and how-to pages for frameworks
#   make integrations  each integration with the library it is for, and each framework over a wrapped
#                    client; make integrations SET=langchain, SET=langchain-oldest, SET=instructor
#   make real-model  two servers of llama.cpp with a small model: answers, streams, a killed server, one
#                    without memory; builds llama.cpp, which takes ten minutes and a C++ compiler
#   make tracer      calls and streams of a client that a tracer has patched; make tracer TRACER=ddtrace
#   make fuzz        a minute of nonsense each for the classifier and the configuration; make fuzz ARGS=-max_total_time=600
#   make soak        a minute of everything at once; make soak ARGS="--seconds 600 --seed 2"
#   make soak-store  half a minute for each store, while processes are killed and the store fails
#   make mutants     the core broken in 2,400 ways, and whether the tests notice (half an hour)
#   make bench       the tables of the documentation: bench-table, bench-whole, bench-strategies,
#                    bench-stores and bench-freshness
#     make bench-table         what a call costs, beside an empty wrapper and the peers
#     make bench-whole         whole calls of the openai client, beside frameworks
#     make bench-strategies    a healthy call under each strategy, with five targets and a thousand
#     make bench-stores        the steps of each store, beside a synchronised page and a PING
#     make bench-freshness     how soon a bench of one process holds in four others
#     make bench-observers     the slowest call of 16 threads, with an observer and in an outage
#     make bench-groups        the same work as bench-table, as pytest-benchmark shows it
#     make bench-configurations  a healthy call with observers, traces, reject and so on
#     make bench-spans           a healthy call with OpenTelemetry, beside spans made by hand
#     make bench-instructions  whether a healthy call has become longer, counted by valgrind
#   make simulate    policies through outages in virtual time, with the tables and the picture of the documentation
#   make clean       take the environment and everything built away

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

# Whoever names a Python gets that one; otherwise the first that is new enough.
PYTHONS := $(if $(filter file,$(origin PYTHON)),python3 python3.13 python3.12 python3.11,$(PYTHON))

BIN := $(VENV)/bin
READY := $(VENV)/.ready

# What looks at the core. The schedules of tests/concurrency have trace functions of their own.
CORE_TESTS := tests/core tests/api tests/drive tests/rules tests/binding tests/observers \
    tests/strategies tests/needs tests/guards tests/probes tests/limits tests/sharing

.DELETE_ON_ERROR:
.PHONY: demo test test-most system-tests pictures lint lint-style lint-types docs
.PHONY: coverage corpus apps integrations real-model tracer fuzz soak soak-store mutants clean
.PHONY: simulate bench bench-table bench-whole bench-strategies bench-stores bench-freshness bench-observers bench-groups bench-configurations bench-spans bench-instructions

demo: $(READY)-demo
	$(BIN)/resilient-llm demo $(ARGS)

test: $(READY)-test
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

# Programs of Debian: see SYSTEM_PACKAGES in .ci/run. `make test` skips these tests and names what
# it skipped. What the store does on a server of the wheel, it has to do on that of Debian, too.
system-tests: $(READY)-system
	RESILIENT_LLM_SYSTEM=1 REDIS_SERVER=redis-server $(BIN)/python -m pytest \
	    tests/system tests/stores/test_redis.py tests/stores/test_redis_many.py \
	    tests/stores/test_redis_rules.py $(ARGS)

pictures: $(READY)-system
	for script in docs/img/*.py; do PYTHONPATH=. $(BIN)/python $$script || exit 1; done
	$(BIN)/resilient-llm demo --svg docs/img/demo.svg

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
	$(BIN)/coverage run --source=resilient_llm/_core -m pytest -m "not slow" $(CORE_TESTS) $(ARGS)
	$(BIN)/coverage report --fail-under=97

test-most: $(READY)-test
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

# Clients that cannot be installed beside each other have environments of their own.
SET ?= all
CORPUS_FILE := tests/corpus/requirements$(if $(filter-out all,$(SET)),-$(SET)).txt
CORPUS := $(VENV)-corpus-$(SET)

corpus: $(CORPUS)/.ready
	RESILIENT_LLM_CORPUS=$(SET) $(CORPUS)/bin/python -m pytest tests/rules/test_corpus.py tests/answers/test_predicates.py $(ARGS)

$(CORPUS)/.ready: $(VENV)/pyvenv.cfg pyproject.toml $(CORPUS_FILE)
	$(BIN)/python -m venv $(CORPUS)
	$(CORPUS)/bin/python -m pip install --quiet --editable . --requirement $(CORPUS_FILE)
	@touch $@

# How-to pages for frameworks, and the tests that use their code. A package that is missing there
# is a failure and no reason to skip.
APP_PAGES := celery django dramatiq flask gevent jupyter many-accounts pytest-xdist
APP_TESTS := tests/rules/test_frameworks.py $(addprefix tests/clients/test_, frameworks.py \
    celery_worker.py shared_workers.py django.py dramatiq.py flask.py gevent.py jupyter.py \
    many_accounts.py pytest_xdist.py)

apps: $(VENV)-apps/.ready
	RESILIENT_LLM_APPS=1 $(VENV)-apps/bin/python -m pytest $(APP_TESTS) \
	    $(APP_PAGES:%='tests/package/test_docs.py::test_the_code_of_a_page_runs[docs/how-to/%.md]') $(ARGS)

$(VENV)-apps/.ready: $(VENV)/pyvenv.cfg pyproject.toml tests/clients/requirements-apps.txt
	$(BIN)/python -m venv $(VENV)-apps
	$(VENV)-apps/bin/python -m pip install --quiet --editable .[test] --requirement tests/clients/requirements-apps.txt
	@touch $@

# The libraries of the integrations cannot be installed beside each other, nor their newest and
# oldest releases. What is tested with which is in resilient_llm/integrations/_supported.py.
INTEGRATION := $(firstword $(subst -, ,$(SET)))
AGE := $(if $(findstring -oldest,$(SET)),oldest,newest)
PLACE := $(VENV)-integration-$(INTEGRATION)-$(AGE)
# Frameworks over a wrapped client have no table: their versions are in their requirements.txt.
FRAMEWORKS := instructor openai_agents llama_index langchain_wrapped semantic_kernel haystack dspy
ALL_INTEGRATIONS := wrap httpx langchain pydantic_ai litellm starlette $(FRAMEWORKS)

ifeq ($(SET),all)
integrations:
	for set in $(ALL_INTEGRATIONS); do $(MAKE) --no-print-directory integrations SET=$$set || exit 1; done
else
integrations: $(PLACE)/.ready
	RESILIENT_LLM_INTEGRATION=$(INTEGRATION) $(PLACE)/bin/python -m pytest tests/integrations/$(INTEGRATION) $(ARGS)
endif

$(PLACE)/.ready: $(VENV)/pyvenv.cfg pyproject.toml resilient_llm/integrations/_supported.py \
    $(wildcard tests/integrations/$(INTEGRATION)/requirements*.txt)
	$(BIN)/python -m venv $(PLACE)
	$(if $(filter $(INTEGRATION),$(FRAMEWORKS)),:,$(BIN)/python resilient_llm/integrations/_supported.py $(INTEGRATION) $(AGE)) >$(PLACE)/supported.txt
	$(PLACE)/bin/python -m pip install --quiet --editable . --requirement $(PLACE)/supported.txt \
	    --requirement tests/integrations/requirements.txt \
	    $(foreach file,$(wildcard tests/integrations/$(INTEGRATION)/requirements.txt tests/integrations/$(INTEGRATION)/requirements-$(AGE).txt),--requirement $(file))
	@touch $@

# Not in CI: llama.cpp is compiled. Without the instructions of this processor alone, since those of
# a virtual machine may be announced and not allowed (AMX, for example).
REAL := $(VENV)-real-model

real-model: $(REAL)/.ready
	PYTHONPATH=. $(REAL)/bin/python tests/real_model/run.py $(ARGS)

$(REAL)/.ready: $(VENV)/pyvenv.cfg pyproject.toml tests/real_model/requirements.txt
	@command -v c++ >/dev/null || { echo "This needs a C++ compiler. On Debian: apt install g++." >&2; exit 1; }
	$(BIN)/python -m venv $(REAL)
	CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=$(AVX2) -DGGML_FMA=$(AVX2) -DGGML_F16C=$(AVX2)" \
	    $(REAL)/bin/python -m pip install --quiet --editable . --requirement tests/real_model/requirements.txt
	@touch $@

AVX2 := $(if $(findstring avx2,$(shell cat /proc/cpuinfo 2>/dev/null)),ON,OFF)

# Each tracer patches the same client, so each has an environment of its own.
TRACER ?= openinference
tracer-openinference := openinference-instrumentation-openai
tracer-openllmetry := opentelemetry-sdk opentelemetry-instrumentation-openai
tracer-ddtrace := ddtrace
tracer-logfire := logfire
tracer-langfuse := langfuse
tracer-sentry := sentry-sdk
tracer-langsmith := langsmith

tracer: $(VENV)-tracer-$(TRACER)/.ready
	$(VENV)-tracer-$(TRACER)/bin/python -m pytest tests/clients/test_tracers.py -k $(TRACER) $(ARGS)

$(VENV)-tracer-$(TRACER)/.ready: $(VENV)/pyvenv.cfg pyproject.toml Makefile
	$(BIN)/python -m venv $(VENV)-tracer-$(TRACER)
	$(VENV)-tracer-$(TRACER)/bin/python -m pip install --quiet --editable . openai $(tracer-$(TRACER)) \
	    pytest pytest-timeout pytest-benchmark trio
	@touch $@

fuzz: $(VENV)-fuzz/.ready
	$(VENV)-fuzz/bin/python tests/fuzz/fuzz_classify.py $(or $(ARGS),-max_total_time=60)
	$(VENV)-fuzz/bin/python tests/fuzz/fuzz_config.py $(or $(ARGS),-max_total_time=60)

$(VENV)-fuzz/.ready: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m venv $(VENV)-fuzz
	$(VENV)-fuzz/bin/python -m pip install --quiet --editable .[fuzz]
	@touch $@

soak: $(READY)-test
	$(BIN)/python tests/concurrency/soak.py $(ARGS)

soak-store: $(READY)-test
	$(BIN)/python tests/concurrency/soak_store.py $(ARGS)

mutants: $(READY)-mutants
	$(BIN)/python tests/mutants.py $(ARGS)

bench: bench-table bench-whole bench-strategies bench-stores bench-freshness

# The peers have an environment of their own: some of them want older clients than the tests.
BENCH := $(VENV)-bench
BENCH_READY := $(BENCH)/.ready-peers

bench-table: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/table.py $(ARGS)

bench-whole: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/whole_calls.py $(ARGS)

bench-strategies: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/strategies.py $(ARGS)

bench-stores: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/stores.py $(ARGS)

bench-freshness: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/freshness.py $(ARGS)

bench-observers: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/observers.py $(ARGS)

bench-groups: $(BENCH_READY)
	$(BENCH)/bin/python -m pytest benchmarks/test_benchmarks.py --import-mode=prepend --benchmark-enable --benchmark-only $(ARGS)

bench-configurations: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/configurations.py $(ARGS)
	$(BENCH)/bin/python benchmarks/metrics.py $(ARGS)

bench-spans: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/spans.py $(ARGS)

bench-instructions: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/instructions.py $(ARGS)

# Needs the package alone. Equal code gives equal files.
simulate: $(READY)-demo
	$(BIN)/python benchmarks/simulation.py $(ARGS)

$(BENCH_READY): $(VENV)/pyvenv.cfg pyproject.toml benchmarks/requirements-peers.txt
	$(BIN)/python -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --editable . --requirement benchmarks/requirements-peers.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-corpus-* $(VENV)-apps $(VENV)-integration-* $(REAL) $(VENV)-tracer-* $(VENV)-fuzz $(BENCH) build dist site mutants .coverage .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks

# A stamp per set of extras, so that what is there is not asked for again. The type checkers
# want to see everything that the package and its tests import.
extras-demo := demo
extras-test := test
extras-lint := lint,system,docs
extras-docs := docs
extras-system := system
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
