# Every target works on a fresh clone: missing packages are installed into .venv first.
VENV := .venv
BIN := $(VENV)/bin
RUN := outputs/quickstart-reach_target-spatial-seed0
EPISODES ?= 200
# On two cores a third process fills the waits of the others.
JOBS ?= 3
SEEDS ?= 0,1,2

.DEFAULT_GOAL := help
.PHONY: help install play demo reproduce rlbench metaworld test test-fast test-rlbench test-skypilot lint docs lock bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/installed: requirements.txt
	@PYTHON="$(PYTHON)" bash launchers/setup/python.sh $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip==26.3
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed pyproject.toml
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

install: $(VENV)/installed  ## install InstructRL for the CPU into .venv

play: $(VENV)/installed  ## type at a robot: an agent that is shipped obeys sentences, in a page at 127.0.0.1:8008
	$(BIN)/python -m instructrl.play

demo: $(VENV)/installed  ## collect, train, evaluate and report from scratch, in minutes
	$(BIN)/python train.py experiment=quickstart
	$(BIN)/python eval.py run=$(RUN) episodes=$(EPISODES)

reproduce: $(VENV)/installed  ## run the method's comparisons and write docs/benchmarks/method.md, in hours (SEEDS=0,1,2)
	$(BIN)/python -m data_tools.reproduce --seeds $(SEEDS)

rlbench: $(VENV)/installed  ## install RLBench and CoppeliaSim (for non-commercial use) and play one episode
	launchers/setup/setup_rlbench.sh $(BIN)/python

metaworld: $(VENV)/installed  ## install Meta-World into .venv-metaworld and play one episode
	launchers/setup/setup_metaworld.sh $(BIN)/python

test: $(VENV)/installed-dev  ## run all tests (unit, integration, cluster), JOBS files at a time
	$(BIN)/python -m pytest -n $(JOBS) --durations=20

test-fast: $(VENV)/installed-dev  ## run the unit tests, which start no process
	$(BIN)/python -m pytest -n $(JOBS) --durations=20 tests/unit

test-rlbench: $(VENV)/installed-dev  ## run the tests that need RLBench (make rlbench installs it)
	$(BIN)/python -m data_tools.rlbench check
	$(BIN)/python -m pytest -m rlbench tests/integration/test_rlbench_installed.py

test-skypilot: $(VENV)/installed-dev  ## install SkyPilot into .venv-skypilot and let it read the tasks of launcher=skypilot
	@PYTHON="$(PYTHON)" bash launchers/setup/python.sh .venv-skypilot
	.venv-skypilot/bin/python -m pip install --quiet --disable-pip-version-check skypilot==0.14.1
	SKYPILOT_PYTHON=$(CURDIR)/.venv-skypilot/bin/python $(BIN)/python -m pytest -m skypilot tests/integration/test_skypilot_installed.py

lint: $(VENV)/installed-dev  ## check style, imports, types and the container's file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint launchers/container/Dockerfile

$(VENV)/installed-docs: $(VENV)/installed pyproject.toml
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

docs: $(VENV)/installed-docs  ## build the documentation into site/, with all links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "documentation: site/index.html; with search: $(BIN)/python -m http.server -d site"

lock: $(VENV)/installed  ## write the newest versions that pyproject.toml allows into requirements*.txt
	$(BIN)/python .ci/lock.py

bench: $(VENV)/installed-dev  ## run every benchmark and write docs/benchmarks/speed.md, in about an hour on a quiet machine
	$(BIN)/python -m tests.bench --page

clean:  ## remove the installation (never data or runs)
	rm -rf $(VENV)
