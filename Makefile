# On a bare machine with Python 3.11 every target sets up what it needs by itself.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test check bench run lock protos format clean

$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(VENV)/installed        ## one agent turn on the scripted engine; ONCE=1 ends after it
	$(BIN)/smg demo $(if $(ONCE),--once)

test: $(VENV)/installed        ## all tests
	$(BIN)/python -m pytest -q

check: $(VENV)/installed       ## format, lint, types, stubs: under a minute
	scripts/check $(BIN)

bench: $(VENV)/installed       ## CPU a token, added latency; BENCH_PEER=1 beside smg 1.13.0
	benchmarks/run $(BIN)

run: $(VENV)/installed         ## smg ARGS="--worker-urls ... --model-path ..."
	$(BIN)/smg $(ARGS)

lock:                          ## pin the newest versions that pyproject.toml allows
	$(PYTHON) -m pip install --quiet uv && $(PYTHON) -m uv pip compile pyproject.toml --extra dev --universal --generate-hashes --python-version 3.11 --no-header --upgrade --quiet -o requirements.lock

protos: $(VENV)/installed      ## generate smg/engines/_generated from proto/
	$(BIN)/python scripts/generate_protos.py

format: $(VENV)/installed
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
