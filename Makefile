# make quick-test   three small cells on any machine, from nothing to a report
# make test         the tests without the slow ones: below four minutes on two cores
# make test-all     all tests; CI runs these
# make ui           luigi's page on http://127.0.0.1:8082, logs and reports on http://127.0.0.1:8083
# make docs         the site of docs/ in site/, with pages made from the code
# make bench        speed and memory, each against a baseline of the same run
# make validate     the simulations behind docs/validity.md: half an hour of two cores; continues if it was ended
# make validate-quick  a part of them, from run records through the commands: below five minutes; CI runs it
# make test-studies a small variant of every shipped study on the cpu device: about three minutes, part of test-all
# make fuzz         10,000 damaged files for whatever reads files; secrets looked for in all that a study leaves
# make test-reliability  what docs/reliability.md promises: 280 kills, disks, clocks, schedulers (root for all of it)
# make test-slurm   a study on three nodes of a real Slurm on this machine, with nodes that die (root, Debian)
# make test-numa    placement on a real multi-node kernel, then power cuts, NFS and a clock that steps (QEMU; root, Debian)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Honest runs that the guest must prove; CI asks for fewer.
HONEST ?= 300
STATE ?= $(or $(XDG_STATE_HOME),$(HOME)/.local/state)/numastudy

.PHONY: install quick-test test test-all lint ui docs bench validate validate-quick test-studies fuzz test-reliability reliability-kills reliability-rest test-numa test-slurm clean

install: $(VENV)/installed

# One stamp for both extras: a test needs what a user needs, and little more.
$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or later: make PYTHON=python3.12")'
	@echo "installing into $(VENV): some minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

quick-test: install
	$(BIN)/luigi --module tasks QuickTest --local-scheduler

# Two processes: tests wait for child processes most of the time. Each has its own host lock (tests/conftest.py).
test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow"

test-all: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

ui: install
	@mkdir -p $(STATE) outputs
	$(BIN)/numastudy ui --state $(STATE) --outputs outputs

# NO_MKDOCS_2_WARNING: an advertisement of a successor.
docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: install
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only -o python_files='bench_*.py'

validate: install
	$(BIN)/python -m tests.validation

validate-quick: install
	$(BIN)/python -m tests.validation --quick

test-studies: install
	$(BIN)/python -m pytest tests/tasks/test_shipped.py tests/tasks/test_sweep.py

# Without a build of atheris for this Python, the cases that need it are skipped with a message.
fuzz: install
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt atheris
	$(BIN)/python -m tests.fuzz
	$(BIN)/python -m pytest tests/fuzz/canary.py

# Half of the time is spent in kills; the rest waits more than it computes.
test-reliability: install
	$(MAKE) --jobs=2 --output-sync reliability-kills reliability-rest

reliability-kills:
	$(BIN)/python -m pytest tests/reliability/survive_kill.py tests/reliability/survive_command.py -o python_files='survive_*.py' -rsP

reliability-rest:
	$(BIN)/python -m pytest tests/reliability -o python_files='survive_*.py' --ignore tests/reliability/survive_kill.py --ignore tests/reliability/survive_command.py -rs

test-numa: install
	$(BIN)/python tests/guest/run --honest $(HONEST)
	$(BIN)/python -m pytest tests/guest -o python_files='check_*.py' --numprocesses 2 --dist loadfile --durations 0

test-slurm: install
	$(BIN)/python -m pytest tests/slurm -o python_files='check_*.py' -rP

clean:
	rm -rf $(VENV) *.egg-info build site .pytest_cache .ruff_cache .hypothesis
