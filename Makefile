# The project's commands. Each creates .venv and installs into it on first use, and again when the dependencies change.
PYTHON ?= python3
PRESET ?= lesson
NAME   ?=
JOBS   ?=
ARGS   ?=
# Which versions are pinned, as pip's -c takes them; the project itself only asks for ranges.
CONSTRAINTS ?= constraints.txt

# Threads that wait by spinning are very slow where other work wants the same cores (docs/findings.md).
export OMP_WAIT_POLICY ?= PASSIVE
# Some machines forbid it, and every process would compile the package, and the tests, once more.
unexport PYTHONDONTWRITEBYTECODE

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run slides check test lab dashboard bench install clean distclean

help:
	@echo "make run        execute the series into runs/NAME/ and write its index page (PRESET=lesson, NAME=the preset,"
	@echo "                JOBS=how many notebooks at once)"
	@echo "make slides     make slides of what make run has left, of the cells that have a slide type (same PRESET, NAME)"
	@echo "make check      linters, types and the quick tests: a minute and a half, before a commit (ARGS='...' goes to pytest)"
	@echo "make test       run all tests, linters and types among them (ARGS='...' goes to pytest)"
	@echo "make lab        open JupyterLab on the notebooks (ARGS='...' goes to JupyterLab)"
	@echo "make dashboard  show what the series has stored in a browser, without training anything (PRESET=lesson)"
	@echo "make bench      measure and write runs/bench.json"
	@echo "make install    create .venv and install (the commands above do it by themselves)"
	@echo "make clean      remove runs/ and all caches; make distclean removes .venv too"

run: $(STAMP)
	$(BIN)/pwl-lab series --preset $(PRESET) $(if $(NAME),--name $(NAME)) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

slides: $(STAMP)
	$(BIN)/pwl-lab slides --name $(or $(NAME),$(PRESET)) $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -m 'not slow and not linter' $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks $(ARGS)

dashboard: $(STAMP)
	$(BIN)/pwl-lab dashboard --preset $(PRESET) $(ARGS)

bench: $(STAMP)
	$(BIN)/python scripts/bench.py $(ARGS)

install: $(STAMP)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "pwl_lab needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '.[dev,loaders]'
	@touch $@

clean:
	rm -rf runs .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache build
	find . -path ./$(VENV) -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) pwl_lab.egg-info
