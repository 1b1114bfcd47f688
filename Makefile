# Everything a developer needs; `make` lists it. Needs Python ≥ 3.11 and nothing else
# (the tests on a real Kafka: Java 17 and Maven as well).

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TESTED := $(VENV)/.tested
SOURCES := $(shell find stream_monitor tests benchmarks scripts config -type f -not -path '*/__pycache__/*' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-faults check static format bench-detection bench-detection-quick bench-throughput kafka kafka-stop clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-21s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## virtual environment, dependencies and the package in .venv

# Runs again only when what it installs has changed.
$(STAMP): pyproject.toml constraints.txt
	@python=""; \
	for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	  if $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    python=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: no Python 3.11 or later with venv found on the PATH: install it (Debian: python3.11-venv) and try again" >&2; \
	  exit 1; \
	fi; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	  echo "setup: virtual environment by $$($$python --version)"; \
	  $$python -m venv --clear $(VENV); \
	fi
	@echo "setup: installing (the first time takes a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,parquet]'
	@touch $@

demo: setup ## play the car-loan stream through the real worker, in memory, and watch the alerts
	@$(BIN)/stream-monitor demo

test: setup ## all tests; on a real Kafka too where Java and Maven exist (REQUIRE_KAFKA=1: fail without)
	$(BIN)/python -m pytest
	@touch $(TESTED)

test-faults: setup ## the long fault tests on a real Kafka, about an hour: brokers, network, soak; docs/guarantees.md
	FAULTS_REPORT=1 REQUIRE_KAFKA=1 $(BIN)/python -m pytest tests/faults -m long -v

check: static $(TESTED) ## static checks and every file in config/; the fast tests too unless `make test` just ran

static: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/stream-monitor check config/*.yaml

# `make test` marks it too, so that CI, which runs both, runs the tests once.
$(TESTED): $(SOURCES) $(STAMP)
	$(BIN)/python -m pytest tests/unit tests/contract -m 'not slow and not kafka'
	@touch $@

format: setup ## let ruff put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-detection: setup ## every detection test against its peers; hours (SCALE=0.05: a share of it); benchmarks/detection.md
	$(BIN)/python -m benchmarks.detection --full --scale $(or $(SCALE),1)

bench-detection-quick: setup ## a seeded part of it, with gates; under three minutes
	$(BIN)/python -m benchmarks.detection --quick

bench-throughput: setup ## events a second and CPU an event on a real Kafka, beside a plain consumer; benchmarks/throughput.md
	$(BIN)/python -m benchmarks.throughput

kafka: setup ## start a one-node Apache Kafka on 127.0.0.1:9092 (Java 17 and Maven; no Docker)
	@$(BIN)/python -m scripts.kafka_node start

kafka-stop: setup ## stop it
	@$(BIN)/python -m scripts.kafka_node stop

clean: ## remove what was built, the virtual environment included
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
