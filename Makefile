# `make run` sets everything up and starts the assistant; `make test` sets everything up and passes every test.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help

.PHONY: help setup rasa run test check e2e bench clean

help:  ## What can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.ready  ## The environment in .venv

$(VENV)/.ready: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing the packages (about 2 GB, one to three minutes the first time)"
	$(BIN)/pip install --quiet --progress-bar off -e '.[dev]'
	@touch $@

rasa:  ## The environment of the Rasa engine in .venv-rasa (Python 3.10; RASA_PYTHON names it)
	@bash nlu/rasa/environment/make.sh .venv-rasa

run: setup  ## Everything, then http://127.0.0.1:8080
	$(BIN)/otvet serve --update

test: setup  ## Every test, two files at once
	$(BIN)/pytest -n 2 --dist loadfile

e2e: setup  ## The tests with real servers and a real browser alone
	$(BIN)/pytest -m e2e

check: setup  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## The figures of benchmarks/RESULTS.md; BENCH=FOLDER names the public sets
	$(BIN)/python -m benchmarks.encoder
	$(BIN)/otvet evaluate dialogue --queries data/eval/dialogue.test.jsonl --json
	$(BIN)/python -m benchmarks.ledger --engine sqlite
	$(BIN)/python -m benchmarks.ledger --engine postgresql --workers 3
	$(BIN)/python -m benchmarks.load --engine sqlite
	$(BIN)/python -m benchmarks.load --engine postgresql --workers 2
	$(BIN)/python -m benchmarks.search --bare --dialogue data/eval/dialogue.dev.jsonl --scale 10000 $(if $(BENCH),--sets $(BENCH))
	$(if $(BENCH),$(BIN)/python -m benchmarks.intents --data $(BENCH) $(if $(wildcard .venv-rasa/.ready),--engine embedded --engine rasa),@echo "Public sets left out: make bench BENCH=FOLDER")

clean:  ## Remove what was made, the state in var/ excepted
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
