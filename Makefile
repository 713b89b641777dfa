# The project's commands. Each creates .venv and installs into it on first use and whenever the dependencies change.
PYTHON ?= python3
PRESET ?= lesson
NAME   ?=
JOBS   ?=
ARGS   ?=
PORT   ?= 8880
# The file with the pinned versions, for pip's -c; the project itself only asks for ranges.
CONSTRAINTS ?= constraints.txt

# Threads that spin while they wait are very slow if other work needs the same cores (docs/diary.md).
export OMP_WAIT_POLICY ?= PASSIVE
# Some machines set it; then every process would compile the package and the tests again.
unexport PYTHONDONTWRITEBYTECODE

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNTIME := web/node_modules/.package-lock.json

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run slides site check test lab dashboard web bench install clean distclean

help:
	@echo "make run        execute the series into runs/NAME/ and write its index page (PRESET=lesson, NAME=the preset,"
	@echo "                JOBS=how many notebooks at once)"
	@echo "make slides     make slides from the results of make run, out of the cells with a slide type (same PRESET, NAME)"
	@echo "make site       build one offline site of the results of make run, the docs and an API reference (same PRESET, NAME)"
	@echo "make check      run linters, type checks and the quick tests in a minute and a half, before a commit (ARGS='...' goes to pytest)"
	@echo "make test       run all tests, including linters and type checks (ARGS='...' goes to pytest)"
	@echo "make lab        open JupyterLab on the notebooks (ARGS='...' goes to JupyterLab)"
	@echo "make dashboard  show the stored results of the series in a browser, without training anything (PRESET=lesson)"
	@echo "make web        write the page on which the stored networks load in a browser, and serve it to this machine"
	@echo "                (PRESET=lesson, PORT=8880; needs npm, for the runtime that the page uses)"
	@echo "make bench      measure speed and write runs/bench.json"
	@echo "make install    create .venv and install into it (the commands above do this by themselves)"
	@echo "make clean      remove runs/ and all caches; make distclean also removes .venv"

run: $(STAMP)
	$(BIN)/pwl-lab series --preset $(PRESET) $(if $(NAME),--name $(NAME)) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

slides: $(STAMP)
	$(BIN)/pwl-lab slides --name $(or $(NAME),$(PRESET)) $(ARGS)

site: $(STAMP)
	$(BIN)/pwl-lab site --name $(or $(NAME),$(PRESET)) $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -m 'not slow and not linter' $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest --durations=20 $(ARGS)

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks $(ARGS)

dashboard: $(STAMP)
	$(BIN)/pwl-lab dashboard --preset $(PRESET) $(ARGS)

web: $(STAMP) $(RUNTIME)
	folder=$$($(BIN)/pwl-lab web --preset $(PRESET) $(ARGS)) && echo "Open http://127.0.0.1:$(PORT)/ . Press Ctrl-C to stop." && \
	    $(BIN)/python -m http.server --bind 127.0.0.1 --directory "$$folder" $(PORT)

# ONNX Runtime Web and the type checker of the page's scripts; npm compares each package with the lock's checksum.
$(RUNTIME): web/package.json web/package-lock.json
	@command -v npm >/dev/null || { echo "make web needs npm, which comes with Node.js. Nothing else does." >&2; exit 1; }
	npm ci --prefix web
	@touch $@

bench: $(STAMP)
	$(BIN)/python scripts/bench.py $(ARGS)

install: $(STAMP)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "pwl_lab needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip  # an environment of uv has none
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '.[dev,hf,loaders,web,site]'
	@touch $@

clean:
	rm -rf runs .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache build dist
	find . -path ./$(VENV) -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) pwl_lab.egg-info web/node_modules
