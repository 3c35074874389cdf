# make demo | make test | make lint: each works alone on a fresh checkout and makes .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Options for the torch wheel alone, e.g. TORCH_ARGS="--index-url <index of CPU builds>" to avoid the larger CUDA build.
TORCH_ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test lint clean

demo: $(INSTALLED)
	$(BIN)/python -m sana_wm.train recipe=demo
	$(BIN)/python -m sana_wm.plan world=runs/demo/world

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .

# torch goes first: once the pinned build is there, no other requirement can pull a different one.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(TORCH_ARGS) -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -c constraints.txt -e ".[sim,report,dev]"
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
