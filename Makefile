# make demo   captions examples/ with the bundled model        make test   lint, types and tests
# PYTHON=...  names the interpreter to use; without it the first one of at least 3.10 on the PATH is taken.
# PYTEST_ARGS=...  are handed to pytest: make unit PYTEST_ARGS="tests/runtime -k search"

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

SOURCES := pyproject.toml CMakeLists.txt $(shell find train export runtime benchmarks -type f \
	! -name '*.pyc' ! -path 'benchmarks/results/*')
DEMO := .venv-demo
DEV := .venv
PIP_INSTALL := -m pip install --disable-pip-version-check

# --- The interpreter. Looked for once, and only when a virtual environment must be made.

IS_RECENT = $(1) -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10 python)
FOUND = $(eval FOUND := $(shell for p in $(CANDIDATES); do $(call IS_RECENT,$$p) && echo $$p && break; done))$(FOUND)
HAS_VENV = $(shell $(FOUND) -c 'import ensurepip, venv' >/dev/null 2>&1 && echo yes)
NO_PYTHON = none of "$(CANDIDATES)" is Python 3.10 or newer; install one, or name it: make PYTHON=/path/to/python3
NO_VENV = $(FOUND) has no venv module; install it (Debian, Ubuntu: apt install python3-venv), or name another: \
	make PYTHON=/path/to/python3

define new_venv
$(if $(FOUND),,$(error $(NO_PYTHON)))
$(if $(HAS_VENV),,$(error $(NO_VENV)))
@echo "== $(1): virtual environment of $$($(FOUND) --version)"
@rm -rf $(1)
@$(FOUND) -m venv $(1)
endef

# --- What a user runs.

.PHONY: help demo test lint types unit clean distclean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

demo: $(DEMO)/installed ## caption the photographs in examples/ with the bundled model; pictures go to demo/
	$(DEMO)/bin/camscribe caption examples/ --out demo --attention

test: lint types unit ## lint, types and tests, in a development environment that it sets up (PyTorch: several GB)

lint: $(DEV)/installed ## formatting and lint
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .

types: $(DEV)/installed build/typecheck/installed ## static types
	MYPYPATH=build/typecheck $(DEV)/bin/mypy

unit: $(DEV)/installed ## tests
	$(DEV)/bin/python -m pytest $(PYTEST_ARGS)

clean: ## remove what was built, but not the development environment
	rm -rf build dist demo $(DEMO) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find train export runtime benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the development environment too
	rm -rf $(DEV)

# --- Installations. A file "installed" is the stamp: older than a source, it is made anew.

$(DEMO)/bin/python:
	$(call new_venv,$(DEMO))

$(DEMO)/installed: $(DEMO)/bin/python $(SOURCES)
	@echo "== $(DEMO): installing camscribe[cpu]"
	@$(DEMO)/bin/python $(PIP_INSTALL) --quiet '.[cpu]'
	@touch $@

$(DEV)/bin/python:
	$(call new_venv,$(DEV))

# Editable: the tests run the folders of this checkout. Only the project file decides what is installed.
$(DEV)/installed: $(DEV)/bin/python pyproject.toml CMakeLists.txt
	@echo "== $(DEV): installing camscribe[dev] (PyTorch is several GB)"
	@$(DEV)/bin/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

# mypy cannot follow an editable installation of this layout.
build/typecheck/installed: $(DEV)/installed $(SOURCES)
	@rm -rf build/typecheck
	@$(DEV)/bin/python $(PIP_INSTALL) --quiet --no-deps --no-build-isolation --target build/typecheck .
	@touch $@
