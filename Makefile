# make demo         make the demo data, train unbalanced and balanced, compare; DEMO='schedule.epochs=1' changes both runs
# make test         the whole test suite (neighbours stay together, for what they share); TESTS='tests/test_plan.py -x' names a part of it
# make check        linters and types
# make test-lowest  a part of the suite with every dependency at the lowest version that pyproject.toml allows
# VENV and PYTHON name the virtual environment, and the Python that makes it: make test PYTHON=python3.13 VENV=.venv313
PYTHON ?= python3
VENV ?= .venv
DEMO ?=
TESTS ?=
RUN = $(VENV)/bin/python
LOWEST ?= .venv-lowest
# What leans on its libraries: solvers, tables, readers, models, launchers, checkpoints, pages.
LOWEST_TESTS ?= tests/test_annotate.py tests/test_audit.py tests/test_cli.py tests/test_decode.py tests/test_export.py \
	tests/test_losses.py tests/test_models.py tests/test_plan.py tests/test_solve.py tests/test_stream.py \
	tests/test_track.py tests/test_train.py tests/test_adapt.py tests/test_lite.py tests/test_dashboards.py

.PHONY: demo test check test-lowest clean

demo: $(VENV)/.installed
	$(RUN) scripts/demo.py $(DEMO)

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal $(TESTS)

check: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test-lowest: $(LOWEST)/.installed-lowest
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist worksteal $(LOWEST_TESTS)

# What runs need; what the tests need beside it.
$(VENV)/.installed: EXTRAS = fast,lora
$(VENV)/.installed-dev: EXTRAS = dev
$(VENV)/.installed $(VENV)/.installed-dev: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here; install Python 3.11 or newer, or name it: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.11"; exit 1; }
	@test -e $(VENV)/.installed -o -e $(VENV)/.installed-dev || \
		echo "Installing into $(VENV): PyTorch with its CUDA libraries takes about 6 GB and a few minutes, once."
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[$(EXTRAS)]'
	@echo "Installed. To type commands yourself: source $(VENV)/bin/activate"
	@touch $@

# pip knows no lowest versions; uv does, and is installed into the environment that it fills.
$(LOWEST)/.installed-lowest: pyproject.toml
	@test -x $(LOWEST)/bin/uv || { $(PYTHON) -m venv $(LOWEST) && $(LOWEST)/bin/python -m pip install --quiet uv; }
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[dev]'
	@touch $@

clean:
	rm -rf runs demo-data wandb outputs multirun .mypy_cache .ruff_cache .pytest_cache .hypothesis
