# `make demo` and `make test` do everything on a machine with Python >= 3.10 and make; on Windows
# with any make, such as that of `winget install ezwinports.make`.

# where it is installed; `make test VENV=.venv-oldest` tests in another environment, see env-oldest
VENV ?= .venv
ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := $(VENV)/Scripts
else
PYTHON ?= python3
BIN := $(VENV)/bin
endif

# which versions of other packages
VERSIONS := -c constraints.txt
ifeq ($(VENV),.venv-newest)
VERSIONS := --upgrade
endif
ifeq ($(VENV),.venv-oldest)
VERSIONS := -c constraints-oldest.txt
endif

.PHONY: demo test test-slow soak mutants lab notebooks install lint
.PHONY: env-pinned env-newest env-oldest address
install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt constraints-oldest.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(VERSIONS) -e ".[notebooks,dev]"
	$(PYTHON) -c "open('$@', 'w').close()"

# environments to test in: the pinned versions, the newest that there are, the oldest allowed
env-pinned env-newest env-oldest: env-%:
	$(MAKE) install VENV=.venv-$*

# `make address URL=https://github.com/OWNER/NAME`: badges, set-up cells and links follow
address:
	$(PYTHON) tools/address.py $(URL)

demo: install
	$(BIN)/e4t demo

# two processes of one thread each are faster than one of two; and nothing is asked of the network, so nothing waits for it
test: export OMP_NUM_THREADS = 1
test: export HF_HUB_OFFLINE = 1
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 10 tests
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

.PHONY: teaching student room
teaching: install  # the table of times, the quizzes and the decks of teaching/
	$(BIN)/python teaching/times.py
	$(BIN)/python teaching/quiz.py
	$(BIN)/python teaching/slides.py

student: install  # the notebooks without solutions and outputs, the checks hidden
	$(BIN)/python teaching/student.py

# what laptops without a network, of this machine's system and Python, need
room: student
	mkdir -p outputs/room/wheels
	cp outputs/e4t-student.zip outputs/room
	git archive --prefix e4t-minimal/ -o outputs/room/e4t-minimal.zip HEAD -- . ':!notebooks/solutions' ':!notebooks/exercises' ':!teaching' ':!tests'
	$(BIN)/python -m pip download --quiet -c constraints.txt -d outputs/room/wheels ".[notebooks]" hatchling editables

# the site, of the committed outputs, into build/site; what it needs is installed once, by pip
.PHONY: site links
$(VENV)/site: $(VENV)/installed
	$(BIN)/python -m pip install --quiet $(VERSIONS) -e ".[site]"
	$(PYTHON) -c "open('$@', 'w').close()"

site: export NO_MKDOCS_2_WARNING = 1
site: $(VENV)/site
	$(BIN)/python -m mkdocs build --quiet

links:  # do the addresses that texts and notebooks name still answer?
	$(PYTHON) docs/links.py
