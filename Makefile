# `make animate` and `make test` are all the set-up there is: a virtual environment in .venv, made once.
VENV := .venv
BIN := $(VENV)/bin
# the variable silences what the theme's authors say about their next project
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
PROMPT ?= a fox moving right on a green background

.PHONY: animate test test-lowest lint format docs dev bench bench-gpu bundled cog-schema clean help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

animate: $(VENV)/.installed  ## set up, then render PROMPT with the bundled model
	@$(BIN)/animatediff animate "$(PROMPT)"

test: $(VENV)/.dev  ## set up, then run all tests
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal --durations=40 --durations-min=5

test-lowest:  ## install the lowest versions that pyproject.toml allows into .venv-lowest, render and test there
	@sh scripts/test_lowest.sh .venv-lowest

lint: $(VENV)/.dev  ## check style, types, and that the documentation builds without a warning
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(MKDOCS) --quiet --site-dir build/site

docs: $(VENV)/.dev  ## build the documentation into site/; open site/index.html
	@$(MKDOCS) --site-dir site

format: $(VENV)/.dev  ## put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

dev: $(VENV)/.dev  ## set up for development, with the checks before each commit
	@$(BIN)/pre-commit install

bench: $(VENV)/.dev  ## measure against the installed diffusers in each number format; ARGS="--size sd1" for full size
	@$(BIN)/python benchmarks/bench.py $(ARGS)

bench-gpu: $(VENV)/.dev  ## on a GPU: golden tensors, time and memory beside diffusers, training (without one: tiny, on the CPU)
	@$(BIN)/python benchmarks/gpu.py $(ARGS)

bundled: $(VENV)/.dev  ## train the bundled model again (hours); every step resumes
	@sh recipes/bundled/train.sh $(BIN)/python outputs/bundled

cog-schema: $(VENV)/.installed  ## write the inputs of integrations/cog anew, after a change of an option
	@cd integrations/cog && ../../$(BIN)/python -m animatediff_cog.schema

clean:  ## remove the environment and what tools left behind
	rm -rf $(VENV) .venv-lowest build site *.egg-info .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@for python in python3.11 python3.12 python3.13 python3.10 python3; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
			echo "making $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); \
		fi; \
	done; echo "Python 3.10 or newer is needed, with its venv module" >&2; exit 1

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# without torchvision, which does not import beside every build of torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps spandrel
	@touch $@ $(VENV)/.installed
