# Two commands: `make demo` shows it working, `make test` proves it. Both set up .venv first.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CONTAINERS   ?= docker
DAIN_VERSION ?= latest

TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: setup demo test docs lint faults soak fuzz kernels typescript typescript-types web compose-test lock audit licences clean

setup: $(VENV)/installed

# A machine without a GPU gets PyTorch's CPU build where the configured package index has one: it takes a third of the
# space. Elsewhere pip installs the build with CUDA.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo "Python's venv module is missing: apt-get install python3-venv (as root), then again."; exit 1; }
	@echo "Setting up $(VENV). With PyTorch for CPUs: 0.35 GB to fetch, 2.5 GB of disk. With CUDA: 6.1 GB of disk."
	$(PYTHON) -m venv $(VENV)
	@if [ -e /dev/nvidiactl ]; then \
	  echo "This machine has an NVIDIA GPU: PyTorch comes with CUDA."; \
	elif $(BIN)/pip install --constraint constraints.txt "torch==$(TORCH)+cpu"; then \
	  echo "No NVIDIA GPU here: PyTorch is the build for CPUs."; \
	else \
	  echo "The package index has no PyTorch for CPUs, so the build with CUDA follows. It works on a CPU, too."; \
	  echo "To save 4 GB, stop here and set PIP_EXTRA_INDEX_URL to the index for CPUs that pytorch.org names."; \
	fi
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	@if command -v nvcc >/dev/null && $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  $(BIN)/python -m cuda_ext.build; fi
	@touch $@

demo: setup
	$(BIN)/python docs/examples/demo.py

# Two processes more than there are cores, since tests wait for others' processes. Each has a Redis server of its own.
test: setup  ## on every core
	$(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder \
	  --numprocesses $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() + 2, 8))')

docs: setup  ## as a web site in build/site; links that lead nowhere end it
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

faults: setup  ## faults at random moments on the whole service; SEED, ROUNDS, and in ARGS what docs/reliability.md names
	$(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED)) --rounds $(or $(ROUNDS),20) $(ARGS)

soak: setup  ## the service under work, and whether its processes grow; MINUTES
	$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),20)

fuzz: setup  ## damaged videos and malformed requests for the whole service; SEED, N (videos)
	$(BIN)/python -m tests.fuzz $(if $(SEED),--seed $(SEED)) --number $(or $(N),500)

typescript:  ## what the TypeScript client is made and tested with; needs npm
	npm ci --prefix clients/typescript --no-audit --no-fund

typescript-types: setup typescript  ## the TypeScript client's types, of the API's OpenAPI description
	$(BIN)/python -m tests.openapi | clients/typescript/node_modules/.bin/openapi-typescript \
	  --output clients/typescript/src/api.ts

web:  ## builds the page anew, from web/ to service/web; needs npm
	npm ci --prefix web --no-audit --no-fund
	npm run build --prefix web

kernels: setup  ## compile every CUDA kernel; needs nvcc, no GPU
	$(BIN)/python -m cuda_ext.build --check

compose-test: setup  ## the containers, for real; needs Docker with Compose, or podman with podman-compose
	PYTHONPATH=. $(BIN)/python docker/compose_test.py

lock: setup  ## what goes into the images, to the version and the hash; needs uv
	PATH="$(abspath $(BIN)):$$PATH" sh docker/lock.sh

audit:  ## known vulnerabilities of what is locked, by PyPI's list; the GPU worker has it all; needs uv
	uvx pip-audit --strict --disable-pip --require-hashes --requirement docker/requirements-worker.txt

licences:  ## of what the GPU worker's image carries; needs that image, and Docker or CONTAINERS=podman
	$(CONTAINERS) run --rm --interactive --entrypoint python localhost/dain-worker:$(DAIN_VERSION) - <docker/licences.py >docs/licences.new
	mv docs/licences.new docs/licences.md

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
