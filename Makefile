# Two commands do all the set-up: `make demo` and `make test`. Each makes .venv if it is missing.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The demo's database, corpora and checkpoints; `make clean-demo` removes the folder. As root the
# embedded Postgres runs as a system user, to whom root's home is closed: then it lies outside.
ROOTS_HOME := $(and $(filter 0,$(shell id -u)),$(filter $(HOME)/%,$(CURDIR)))
DEMO_DIR ?= $(if $(ROOTS_HOME),/var/lib/scalewright/demo,$(CURDIR)/.scalewright)

# One thread for each process: the linear algebra is small, and the cores are for the training runs.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help install demo clean-demo test lint format soak bench docs docker-check

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo
	@echo '  PYTHON=python3.12   the interpreter that .venv is made with'
	@echo '  ARGS="-k chinchilla -x"   passed on to pytest by test and soak'

install: $(STAMP) ## Make .venv and install everything (the other targets do this by themselves)

$(STAMP): pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" scripts/make_venv.sh "$(VENV)"

demo: $(STAMP) ## The main job for real: sweep, fit, forecast, train, score; the dashboard stays up
	@SCALEWRIGHT_DATA_DIR="$(DEMO_DIR)" $(BIN)/scalewright demo $(if $(CI),--ci)

clean-demo: ## Stop what the demo started and remove its data
	@if [ -x $(BIN)/scalewright ] && [ -d "$(DEMO_DIR)" ]; then \
		SCALEWRIGHT_DATA_DIR="$(DEMO_DIR)" $(BIN)/scalewright db stop || true; fi
	@rm -rf "$(DEMO_DIR)"
	@echo "Removed $(DEMO_DIR)"

test: $(STAMP) ## The whole suite: real Postgres, real worker, real browser
	@scripts/have_chromium.sh
	@scripts/have_slurm.sh
	@$(ONE_THREAD) $(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(STAMP) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## Rewrite the code as ruff would have it
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

soak: $(STAMP) ## Long tests: hours of load and faults
	@$(ONE_THREAD) $(BIN)/python -m pytest -m soak $(ARGS)

bench: $(STAMP) ## Benchmarks, in CPU seconds; ONLY=ingest for one of them
	@for file in tests/benchmarks/$(or $(ONLY),*).py; do \
		grep -q __main__ $$file || continue; \
		name=$$(basename $$file .py); echo "== $$name"; \
		PYTHONPATH=. $(ONE_THREAD) $(BIN)/python -m tests.benchmarks.$$name || exit 1; \
	done

docs: $(STAMP) ## Rewrite the pages that are generated: docs/laws/ and docs/reference/
	@$(BIN)/scalewright docs laws
	@$(BIN)/scalewright docs reference

docker-check: ## Install each Docker target's packages in a clean environment and start it
	@scripts/check_docker_targets.sh
