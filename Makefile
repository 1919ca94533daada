# Two commands do everything, set-up included: `make demo` and `make test`. `make help` lists the rest.

PYTHON      ?= python3
VENV        ?= .venv
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ARGS        ?=

PY    := $(VENV)/bin/python
PIP   := $(PY) -m pip --disable-pip-version-check --no-input
STAMP := $(VENV)/.installed

export TORCH_INDEX

.DEFAULT_GOAL := help
.PHONY: help setup demo app test test-all slow lint types docs examples check lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 17
	@echo "  Options go in ARGS: make demo ARGS=\"--seeds 3 --no-serve\", make test ARGS=\"-k safety\"."

setup: $(STAMP) ## only the set-up: .venv with the pinned dependencies (a second call does nothing)

demo: $(STAMP) ## the main job: simulate, train, evaluate, print the table, open the dashboard
	@$(PY) -m dosing demo $(ARGS)

app: $(STAMP) ## the dashboard on what earlier runs made
	@$(PY) -m dosing app $(ARGS)

# Workers beyond eight only cost memory: each imports torch.
PYTEST := $(PY) -m pytest -n auto --maxprocesses 8

test: $(STAMP) ## the tests, in parallel, but for the long ones (a browser test is skipped, and says so, without Chromium)
	@$(PYTEST) -m "not slow and not gpu and not long" $(ARGS)

test-all: $(STAMP) ## the long tests too
	@$(PYTEST) $(ARGS)

slow: $(STAMP) ## the slow tests: short trainings to a known score
	@$(PY) -m pytest -m slow $(ARGS)

lint: $(STAMP) ## ruff and the import contract
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(VENV)/bin/lint-imports --no-logo

types: $(STAMP) ## mypy, strict
	@$(PY) -m mypy

docs: $(STAMP) ## the documentation, as a site in the folder site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict
	@echo "site/index.html"

examples: $(STAMP) ## every script in the folder examples
	@for script in examples/*.py; do echo "$$script"; $(PY) "$$script" --out runs/examples || exit 1; done

check: lint types docs examples test-all ## everything a change has to pass

# What torch pins for GPU machines is left to torch: without a GPU none of it is installed.
lock: $(STAMP) ## write constraints.txt anew with the newest versions that pyproject.toml allows
	@$(PIP) install --quiet uv
	@echo pip | $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras \
	    --no-header --no-annotate pyproject.toml - > $(VENV)/locked.txt
	@{ echo "# Exact versions of every dependency, for Python 3.11 and newer. Written by \`make lock\`: do not edit."; \
	   echo "# The CUDA packages are absent on purpose: where there is a GPU, torch itself pins them."; \
	   grep -Ev '^(nvidia-|cuda-|triton)' $(VENV)/locked.txt; } > constraints.txt
	@rm $(VENV)/locked.txt

clean: ## remove .venv and the caches, never a run
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt .ci/install_torch.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
	    echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not one: name it with make PYTHON=/path/to/python3"; \
	    exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	    echo "'$(PYTHON)' cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)"; \
	    exit 1; }
	@echo "Set-up, once (1 to 5 minutes, mostly downloads, about 2 GB on disk):"
	@echo "1/3 virtual environment in $(VENV)"
	@$(PY) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --quiet --upgrade --constraint constraints.txt pip setuptools
	@echo "2/3 torch (about 200 MB; several GB where there is a GPU)"
	@$(PY) .ci/install_torch.py
	@echo "3/3 the other dependencies (about 400 MB) and the project itself"
	@PYTHONWARNINGS="ignore:Editable installation" \
	    $(PIP) install --quiet --no-build-isolation --constraint constraints.txt --editable ".[dev]"
	@touch $@
	@echo "Set-up done."
