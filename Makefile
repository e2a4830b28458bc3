# `make demo` and `make test` do everything on a machine with Python >= 3.10 and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow soak mutants lab notebooks install lint
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[notebooks,dev]"
	touch $@

demo: install
	$(BIN)/e4t demo

# two processes of one thread each are faster than one of two; and nothing is asked of the network, so nothing waits for it
test: export OMP_NUM_THREADS = 1
test: export HF_HUB_OFFLINE = 1
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg notebooks

soak: install  # bad inputs, errors and kills, with many more examples than in `make test`: an hour
	$(BIN)/python tests/soak.py

mutants: install
	$(BIN)/python tests/mutants.py

test-slow: install  # minutes, and up to 20 GB of memory
	$(BIN)/python -m pytest -m slow -s tests

lab: install
	$(BIN)/jupyter lab notebooks

notebooks: install
	$(BIN)/python notebooks/figures.py
	$(BIN)/python notebooks/build.py all

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
