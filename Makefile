# Everything starts here: `make demo` shows it, `make test` proves it. Both make their own environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help env demo test check simulate soak format bench docs lock package clean
help:            ## what there is to do
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: $(STAMP)    ## the environment, pinned by dev.lock
$(STAMP): dev.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --only-binary :all: --requirement dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP)   ## the main job, live in the terminal (ARGS=--once ends by itself)
	@$(BIN)/python examples/shop/demo.py $(ARGS)

test: check      ## everything that must hold, as CI runs it
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: $(STAMP)  ## format, lint, types, imports: seconds
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python tools/docs.py --check

simulate: $(STAMP) ## a hundred thousand simulated towns (ARGS="--seed 1 --trace" for one)
	$(BIN)/python tests/simulation/simulate.py $(ARGS)

soak: $(STAMP)   ## the fault tests for long (ARGS="kill --times 100 --seed 1" for one)
	$(BIN)/python tests/soak/run.py $(ARGS)

format: $(STAMP) ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## figures beside peers and limits (ARGS=resilience: services that hang, fail, are overloaded)
	$(BIN)/python -m bench $(ARGS)

docs: $(STAMP)   ## write what in the docs is generated
	$(BIN)/python tools/docs.py

lock: $(STAMP)   ## pin dependencies anew (ARGS=--upgrade)
	$(BIN)/python tools/lock.py $(ARGS)

package: $(STAMP) ## build sdist and wheel
	$(BIN)/python -m build

clean:           ## remove the environment and everything made
	rm -rf $(VENV) dist build .demo .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis
