# make demo | make test | make lint | make bench: each works alone on a fresh checkout and makes .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Options for the torch wheel alone, e.g. TORCH_ARGS="--index-url <index of CPU builds>" to avoid the larger CUDA build.
TORCH_ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.installed
SHIPPED := $(notdir $(patsubst %/config.json,%,$(wildcard sana_wm/worlds/*/config.json)))

.PHONY: demo test lint bench clean

# The whole product on real simulator data, in minutes. What it writes: runs/pusht-demo, data/pusht-demo.
demo: $(INSTALLED)
	@printf '\n1. Record the simulator, fit a small world to it, measure it\n\n'
	@$(BIN)/python -m sana_wm.train data=pusht-demo
	@printf '\n2. Step that world as a Gymnasium environment\n\n'
	@$(BIN)/python examples/step_world.py --world runs/pusht-demo/world
	@printf '\n3. Plan in it, act in the real simulator\n\n'
	@$(BIN)/python -m sana_wm.plan world=runs/pusht-demo/world out=runs/pusht-demo/plan \
		episodes=2 planner.search.samples=32 planner.search.iterations=3
ifneq (,$(filter pusht-64,$(SHIPPED)))
	@printf '\n4. The same with the shipped world pusht-64, which was trained for longer on more data\n\n'
	@$(BIN)/python -m sana_wm.plan world=pusht-64 out=runs/pusht-demo/plan-pusht-64 episodes=3
endif
ifneq (,$(filter tworoom-64,$(SHIPPED)))
	@printf '\n5. How far can a shipped world be trusted? A quick look at tworoom-64, on fresh episodes\n\n'
	@$(BIN)/python -m sana_wm.evaluate world=tworoom-64 quick=true out=runs/pusht-demo/report-tworoom-64
endif
	@printf '\nA few minutes of training make a blurred world; look at it:\n'
	@printf '  runs/pusht-demo/evaluation/film.png   what happened, and what the world imagined\n'
	@printf '  runs/pusht-demo/*/report.html         how far each world can be trusted\n'
	@printf '  runs/pusht-demo/plan*/plan.mp4        goal, real simulator and imagination side by side\n'

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .

# Our networks against diffusers' on this CPU, in turns: SANA-WM, the family, DC-AE. A few minutes each.
# Options of all three: BENCH_ARGS="--threads 2 --repeats 5".
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.transformer_speed $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.family_speed $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.dc_ae_speed $(BENCH_ARGS)

# torch goes first: once the pinned build is there, no other requirement can pull a different one.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(TORCH_ARGS) -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -c constraints.txt -e ".[sim,report,dev]"
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
