# Everything runs from a virtual environment of its own in .venv; a stamp there says what is installed already.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: serve test lint format clean

serve: $(VENV)/.serve  ## answer requests on http://127.0.0.1:8000
	@exec $(BIN)/pilotlight serve

test: $(VENV)/.dev  ## the whole test suite
	$(BIN)/pytest

lint: $(VENV)/.dev  ## style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## forget the environment and all caches, keep snapshots and data
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.serve: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing Pilotlight into $(VENV) ..."
	$(INSTALL) --editable '.[embedded,prepare]'
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@echo "installing what tests and lint need ..."
	$(INSTALL) --editable '.[embedded,prepare,bench,dev]'
	@touch $@
