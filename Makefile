# Everything runs from a virtual environment of its own in .venv; a stamp there says what is installed already.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

FUZZ_INPUTS ?= 1000000
MINUTES ?= 20
BENCH_RUNS := .cache/benchmarks
BENCH_OPTIONS ?=
IMAGE ?= pilotlight
IMAGE_OPTIONS ?=
TOOLS := redis-server wrk valgrind chromium prometheus

.PHONY: serve test bench compare soak storm fuzz litellm otava platforms image image-test lint format clean

serve: $(VENV)/.serve  ## answer requests on http://127.0.0.1:8000
	@exec $(BIN)/pilotlight serve

test: $(VENV)/.dev $(VENV)/.tools  ## the whole test suite
	$(BIN)/pytest

bench: $(VENV)/.dev  ## time single stages of a request, beside the last time where there was one
	$(BIN)/pytest bench/micro --benchmark-only --benchmark-disable-gc --benchmark-min-time=0.0005 --benchmark-min-rounds=100 \
		--benchmark-warmup=on --benchmark-warmup-iterations=20 --benchmark-columns=min,median,iqr,rounds,iterations \
		--benchmark-storage=file://$(BENCH_RUNS) --benchmark-autosave \
		$(if $(wildcard $(BENCH_RUNS)/*/*.json),--benchmark-compare --benchmark-group-by=fullname) $(BENCH_OPTIONS)

compare: $(VENV)/.dev $(VENV)/.tools  ## the function beside FastAPI, Flask and Django, in less than ten minutes
	$(BIN)/pilotlight bench compare --quick --out bench-out/compare

soak: $(VENV)/.dev  ## mixed load, disconnects and outages for MINUTES, then a balance sheet
	$(BIN)/pilotlight bench soak --minutes $(MINUTES)

storm: $(VENV)/.dev  ## 10,000 clients that leave at random moments
	NUM_LEAVING=10000 $(BIN)/pytest tests/test_leaving.py -k thousands --timeout 600

fuzz: $(VENV)/.dev  ## a million bad inputs (make fuzz FUZZ_INPUTS=...), and what became of them
	$(BIN)/python -m tests.fuzz --inputs $(FUZZ_INPUTS) --defects .fuzz

litellm: $(VENV)/.dev  ## LiteLLM's client against the server, from a venv of its own (400 MB)
	$(PYTHON) -m venv $(VENV)/litellm
	$(VENV)/litellm/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/clients/litellm.txt
	LITELLM_PYTHON=$(VENV)/litellm/bin/python $(BIN)/pytest tests/clients/test_litellm.py

platforms: $(VENV)/.dev $(VENV)/.tools  ## what runs under RunPod's and Modal's SDKs and on Ray, from venvs of their own (3 GB)
	for sdk in runpod modal ray; do $(PYTHON) -m venv $(VENV)/$$sdk; \
		$(VENV)/$$sdk/bin/python -m pip install --quiet --disable-pip-version-check --requirement infra/$$sdk/requirements.txt || exit 1; done
	$(VENV)/ray/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt '.[embedded]'
	RUNPOD_PYTHON=$(VENV)/runpod/bin/python MODAL_PYTHON=$(VENV)/modal/bin/python RAY_PYTHON=$(VENV)/ray/bin/python \
		$(BIN)/pytest tests/infra/test_runpod.py tests/infra/test_modal.py tests/infra/test_ray.py

otava: $(VENV)/.otava  ## Apache Otava, which looks for change points in main's history, in a venv of its own

image:  ## the container image, with Docker where an engine answers, else with Buildah (IMAGE_OPTIONS="--build-arg MODEL=...")
	$(PYTHON) infra/image/build.py --tag $(IMAGE) $(IMAGE_OPTIONS)

image-test:  ## start that image, ask it, stop it, and measure its cold start
	$(PYTHON) infra/image/try_image.py --tag $(IMAGE)

lint: $(VENV)/.dev  ## style, types, layers, and what is known to be unsafe
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive handler bench
	@PATH=$(BIN):$$PATH $(BIN)/python .ci/audit.py

format: $(VENV)/.dev  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## forget the environment and all caches, keep snapshots and data
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info \
		handler/engine/native/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.compiler: $(VENV)/.created  # for the int8 kernels; without them torch computes, several times slower
	@if command -v cc >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing a C compiler ..."; apt-get update -qq && apt-get install -qq -y --no-install-recommends gcc libc6-dev; \
	else echo "no C compiler: the int8 kernels are left out, and their tests skipped (Debian: apt-get install gcc libc6-dev)"; fi
	@touch $@

$(VENV)/.tools: $(VENV)/.created  # what tests and benchmarks run beside the function
	@missing=; for tool in $(TOOLS); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing ..."; apt-get update -qq && apt-get install -qq -y --no-install-recommends $$missing; \
	else echo "the tests that need$$missing are skipped (Debian: apt-get install$$missing)"; fi
	@touch $@

$(VENV)/.otava: bench/history/otava.txt | $(VENV)/.created  # it holds numpy and scipy below the harness's versions
	$(PYTHON) -m venv $(VENV)/otava
	$(VENV)/otava/bin/python -m pip install --quiet --disable-pip-version-check --requirement bench/history/otava.txt
	@touch $@

$(VENV)/.serve: $(VENV)/.compiler pyproject.toml constraints.txt $(wildcard handler/engine/native/src/*)
	@echo "installing Pilotlight into $(VENV) ..."
	$(INSTALL) --editable '.[embedded,prepare]'
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@echo "installing what tests and lint need ..."
	$(INSTALL) --editable '.[embedded,prepare,bench,clients,dev]'
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(INSTALL) --editable '.[kernels]' \
		|| echo "Triton cannot be installed here: the tests of the CUDA kernels are skipped"
	@touch $@
