# Short recipes; the logic is in Python files. `make` alone prints what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup up down purge doctor test test-fast lint format type imports check lock images image-cuda bench

help: ## print this
	@echo "Torchroom: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

up: ## start everything (installs and builds what is missing)
	@$(PYTHON) deploy/up.py

down: ## stop everything; what was saved is kept
	@$(PYTHON) deploy/down.py

purge: ## delete this deployment and all homes, after asking (FORCE=1, IMAGES=1)
	@$(PYTHON) deploy/purge.py

doctor: ## say what is wrong with this machine or its settings (JSON=1, STRICT=1)
	@$(PYTHON) deploy/doctor.py

images: ## build all images
	@$(PYTHON) images/build.py all

image-cuda: ## build the user image with CUDA (several GB)
	@$(PYTHON) images/build.py pytorch --cuda

setup: ## make .venv with everything for working on the code
	@$(PYTHON) deploy/developer.py

test: ## run all tests from a clean state (what CI runs)
	@$(PYTHON) tests/testbed/run.py

test-fast: setup ## run the tests that need no engine
	@$(BIN)/python -m pytest tests/unit tests/ledger tests/console tests/auth tests/roles tests/steward tests/gate tests/doctor

bench: ## measure, side by side with what people would run instead (about 25 minutes)
	@$(PYTHON) bench/class_start.py
	@$(BIN)/python bench/gate.py
	@$(BIN)/python bench/choice.py
	@$(BIN)/python bench/pool.py
	@$(BIN)/python bench/ledger.py
	@$(BIN)/python bench/idle.py
	@$(BIN)/python bench/logins.py

lint: setup ## check style
	@$(BIN)/ruff check && $(BIN)/ruff format --check

format: setup ## mend style where a program can
	@$(BIN)/ruff check --fix-only --quiet && $(BIN)/ruff format

type: setup ## check types
	@$(BIN)/mypy

imports: setup ## check who imports whom
	@$(BIN)/lint-imports

check: lint type imports test-fast ## everything that needs no engine

lock: ## renew every lock file (uv.lock and those of the images)
	@$(PYTHON) deploy/lock.py
