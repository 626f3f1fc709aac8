# Every command sets up what it needs first; `make` alone lists them.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready-$(shell cat requirements-dev.lock pyproject.toml | cksum | cut -d' ' -f1)
SEEDS ?= 200
SEED ?=
SECONDS ?= 120
ROUNDS ?= 3
STORIES ?= 4
SAMPLE ?=

.DEFAULT_GOAL := help
.PHONY: help setup check format test nightly simulate crashpoints drill gallery demo bench clean

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

crashpoints: setup ## each disk call, send and answer of 13 scenarios fails once: STORIES=n variants, or a SAMPLE=n of the points
	@$(PY) -m tests.crashpoints.run --stories $(STORIES) $(if $(SAMPLE),--sample $(SAMPLE))

drill: setup ## real nodes, faults drawn from the seed (or FAULTS=a,b), for SECONDS=n: SEED=s repeats the plan of one drill
	@python3 scripts/drill_tools.py || true # what is missing is said by name, and no drill has it
	@$(PY) -m chaos run --seconds $(SECONDS) $(if $(FAULTS),--faults $(FAULTS)) $(if $(SEED),--seed $(SEED))

gallery: setup ## known bugs put back one at a time, and corrupted histories: each must be caught
	@$(PY) -m chaos.gallery --jobs 2 && $(PY) -m chaos.checker.mutants

demo: setup ## three real nodes, load, leader killed in the middle of acks, a verdict
	@$(PY) -m chaos.demo

bench: setup ## beside RabbitMQ and NATS in ROUNDS interleaved rounds; single requests; failover; backlog; catching up; growth
	@$(PY) scripts/bench_tools.py
	@python3 scripts/drill_tools.py || true # a broken link needs a firewall
	@$(PY) -m bench --rounds $(ROUNDS) --out .bench && $(PY) -m bench.single
	@missed=0; for fault in kill pause link_down transfer; do $(PY) -m bench.failover --fault $$fault || missed=1; done; \
	for broker in nats-always rabbit; do $(PY) -m bench.failover --broker $$broker || missed=1; done; \
	$(PY) -m bench.backlog --out .bench/backlog.json || missed=1; \
	$(PY) -m bench.catchup --out .bench/catchup.json || missed=1; \
	$(PY) -m bench.growth --out .bench || missed=1; exit $$missed

clean: ## what setup, tests and demo left here
	@rm -rf $(VENV) .bench .demo .drills .trivet-dev .coverage .coverage.* .hypothesis .mypy_cache .ruff_cache
