# Every command sets up what it needs first; `make` alone lists them.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready-$(shell cat requirements-dev.lock pyproject.toml | cksum | cut -d' ' -f1)
SEEDS ?= 200
SEED ?=
ROUNDS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup check format test nightly simulate drill demo bench clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

setup: $(STAMP) ## a virtual environment in .venv with the locked dependencies

$(STAMP): requirements-dev.lock pyproject.toml
	@echo "setting up $(VENV) (once, about a minute)"
	@python3 scripts/setup_venv.py $(VENV)
	@rm -f $(VENV)/.ready-* && touch $@

check: setup ## format, lint, types, import rules: under a minute
	@$(PY) scripts/stages.py check

format: setup ## let ruff format and mend what it can
	@$(PY) -m ruff format -q src tests chaos bench scripts && $(PY) -m ruff check -q --fix src tests chaos bench scripts

test: setup ## all tests, one line a stage, then coverage against its gates
	@$(PY) scripts/stages.py test

nightly: setup ## all tests in their exhaustive variants, with fresh examples: hours
	@$(PY) scripts/stages.py nightly

simulate: setup ## SEEDS=n fresh clusters (a quarter of them with the real machine), or SEED=s to replay one
	@$(PY) -m tests.simulation.run --machine list $(if $(SEED),--seed $(SEED),--seeds $$(($(SEEDS) - $(SEEDS) / 4)) --fresh --jobs 2)
	@$(PY) -m tests.simulation.run --machine queue $(if $(SEED),--seed $(SEED),--seeds $$(($(SEEDS) / 4)) --fresh --jobs 2)

drill: setup ## real nodes, kills and power loss: SEED=s replays the plan of one drill
	@$(PY) -m chaos.drill $(if $(SEED),--seed $(SEED))

demo: setup ## three real nodes, load, leader killed in the middle of acks, a verdict
	@$(PY) -m chaos.demo

bench: setup ## first figures and failover, measured on this machine
	@$(PY) -m bench.first_figure --rounds $(ROUNDS) && $(PY) -m bench.failover

clean: ## what setup, tests and demo left here
	@rm -rf $(VENV) .demo .trivet-dev .coverage .coverage.* .hypothesis .mypy_cache .ruff_cache
