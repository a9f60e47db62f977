# Everything here runs as an ordinary user. VENV names the environment, STACK which one it is (cpu or gpu).
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV ?= .venv
STACK ?= cpu
ARGS ?=
# A run that hangs must not hang for ever. Any value of `timeout`: 90m, 12h.
TRAIN_LIMIT ?= 6h
LINT_LIMIT ?= 10m
UNIT_LIMIT ?= 30m
E2E_LIMIT ?= 50m

PYTHON := $(VENV)/bin/python
DATA := data/medical_verl
SFT_DATA := data/medical_sft
# INT first: pytest and verl then stop Ray and say where they were.
LIMITED := timeout --foreground --signal=INT --kill-after=60
limit_hit = { status=$$?; [[ $$status != 124 ]] || echo "make: $(1) was stopped after $($(2)), the limit; give a longer $(2)=" >&2; exit $$status; }
timed = TIMEFORMAT="make: $(1) took %0R s"; time

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup setup-dev
setup: ## make or update the environment $(VENV)
	@./setup_env.sh --$(STACK) --venv $(VENV)
setup-dev: ## the same with the tools that test and lint need
	@./setup_env.sh --$(STACK) --venv $(VENV) --dev

.PHONY: data
data: $(DATA)/manifest.json ## convert data/sample for verl, where it is missing or old
$(DATA)/manifest.json: $(wildcard data/sample/*.csv medical_team/dataset/*.py) medical_team/medec.py medical_team/prompts.py | setup
	$(PYTHON) scripts/convert_dataset_to_verl.py --output-dir $(DATA)

.PHONY: train-cpu
train-cpu: STACK := cpu
train-cpu: setup data ## self-play on two CPU cores; ARGS="KEY=VALUE ..." overrides verl's keys
	HF_HUB_OFFLINE=1 $(LIMITED) $(TRAIN_LIMIT) $(PYTHON) -m verl.trainer.main_ppo \
	  --config-dir configs --config-name medical_grpo hardware=cpu $(ARGS) || $(call limit_hit,training,TRAIN_LIMIT)

.PHONY: sft-cpu
sft-cpu: STACK := cpu
sft-cpu: setup ## supervised start on the CPU: data/sample to outputs/medical_sft; ARGS as for train-cpu
	$(PYTHON) scripts/create_sft_data.py --output-dir $(SFT_DATA)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=2 $(LIMITED) $(TRAIN_LIMIT) $(PYTHON) -m torch.distributed.run --standalone --nproc_per_node=1 \
	  -m verl.trainer.sft_trainer --config-dir configs --config-name medical_sft hardware=cpu data_dir=$(SFT_DATA) \
	  optim.lr=3e-4 $(ARGS) || $(call limit_hit,training,TRAIN_LIMIT)

.PHONY: evaluate-cpu
evaluate-cpu: STACK := cpu
evaluate-cpu: setup ## the tiny model on the sample clinic's test set, to outputs/evaluation; ARGS="--model DIR --output DIR" for another
	HF_HUB_OFFLINE=1 $(PYTHON) scripts/evaluate_medec.py --data data/sample/test.csv --model data/tiny_model --output outputs/evaluation $(ARGS)

.PHONY: test unit e2e
test: lint docs unit e2e ## everything CI runs: lint, the documentation, unit tests, then real training runs on the CPU
unit: setup-dev ## the tests that start no training run
	@$(call timed,unit tests) $(LIMITED) $(UNIT_LIMIT) $(PYTHON) -m pytest --durations=10 $(ARGS) || $(call limit_hit,unit tests,UNIT_LIMIT)
e2e: setup-dev data ## the tests that train
	@$(call timed,e2e tests) $(LIMITED) $(E2E_LIMIT) $(PYTHON) -m pytest -m e2e --timeout=1200 --durations=0 $(ARGS) || $(call limit_hit,e2e tests,E2E_LIMIT)

.PHONY: lint ruff ruff-format mypy import-rule
lint: ruff ruff-format mypy import-rule ## style, format, types and the import rule
ruff: setup-dev
	@$(call timed,ruff) $(LIMITED) $(LINT_LIMIT) $(VENV)/bin/ruff check .
ruff-format: setup-dev
	@$(call timed,ruff format) $(LIMITED) $(LINT_LIMIT) $(VENV)/bin/ruff format --check .
mypy: setup-dev
	@$(call timed,mypy) $(LIMITED) $(LINT_LIMIT) $(VENV)/bin/mypy
import-rule: setup-dev
	@$(call timed,import rule) $(LIMITED) $(LINT_LIMIT) $(PYTHON) -m pytest -q tests/test_import_rule.py

.PHONY: docs docs-serve
docs: setup-dev ## the documentation as a site in build/site; a broken link fails
	@$(PYTHON) scripts/generate_config_reference.py --check
	@$(call timed,docs) $(LIMITED) $(LINT_LIMIT) env NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict
docs-serve: setup-dev ## the same on http://127.0.0.1:8000, built again at every change
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs serve

.PHONY: clean
clean: ## remove what was built; environments and outputs/ stay
	rm -rf build $(DATA) $(SFT_DATA) .pytest_cache .hypothesis .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
