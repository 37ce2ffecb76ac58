# `make demo` and `make test` make .venv first when it is missing or out of date. `make image` needs a builder alone.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.10 python3,$(shell command -v $(p) 2>/dev/null)))
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/installed
PYTHON310 ?= python3.10
OLDER := .venv-0915
SERVER ?=
TORCH := $(shell sed -n 's/^torch==//p' requirements.txt)
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: demo test test-0915 lint env image clean
.DEFAULT_GOAL := help

help:
	@echo "make demo                   drive scored routes with the shipped agent (SERVER=HOST:PORT for a running CARLA)"
	@echo "make test                   the whole test suite"
	@echo "make test-0915              the server's tests with the client of 0.9.15 (needs python3.10)"
	@echo "make image                  submission image (TARGETS=\"submission selftest simulator training\"; docs/submission.md)"
	@echo "make lint                   format, lint, types, import contracts"

demo: $(STAMP)
	$(PY) -m eval demo $(if $(SERVER),--server $(SERVER))

test: $(STAMP)
	$(PY) -m pytest --numprocesses 2 --dist worksteal

# The server's half of the suite needs no torch; requirements.txt has the client of 0.9.15 for Python 3.10, its newest.
test-0915: $(OLDER)/installed
	$(OLDER)/bin/python -m pytest --numprocesses 2 --dist worksteal tests/simulator

lint: $(STAMP)
	$(PY) -m ruff format --check agent simulator eval training tests
	$(PY) -m ruff check agent simulator eval training tests
	$(PY) -m pyright
	$(VENV)/bin/lint-imports

env: $(STAMP)

image:
	docker/build.sh $(or $(TARGETS),submission)

$(STAMP): requirements.txt
	@$(if $(PYTHON),,echo "Python 3.10, 3.11 or 3.12 is needed; set PYTHON=/path/to/python3.11"; exit 2)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else "Python 3.10 to 3.12 is needed, $(PYTHON) is %d.%d; set PYTHON=" % v)'
	$(PYTHON) -m venv $(VENV)
# Without a GPU the CUDA build of torch is several GB for nothing: the CPU build first, if some index has it.
	@if command -v nvidia-smi >/dev/null 2>&1; then true; else \
		$(PY) -m pip install -q --disable-pip-version-check "torch==$(TORCH)+cpu" 2>/dev/null || \
		$(PY) -m pip install -q --disable-pip-version-check --retries 0 --timeout 10 "torch==$(TORCH)" --index-url $(TORCH_CPU_INDEX) 2>/dev/null || \
		echo "no CPU build of torch $(TORCH) found; the default build follows"; fi
	$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt
	@touch $(STAMP)

$(OLDER)/installed: requirements.txt
	@$(PYTHON310) -c '' 2>/dev/null || { echo "PYTHON310=$(PYTHON310) is no Python 3.10, which is needed: the client of 0.9.15 has no wheel for newer ones"; exit 2; }
	$(PYTHON310) -m venv $(OLDER)
	sed '/^torch==/d' requirements.txt > $(OLDER)/requirements.txt
	$(OLDER)/bin/python -m pip install -q --disable-pip-version-check -r $(OLDER)/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) $(OLDER) runs
