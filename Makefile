# make demo   make the demo data, train unbalanced and balanced, compare
# make test   the whole test suite
# make check  linters and types
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test check clean

demo: $(VENV)/.installed
	$(RUN) scripts/demo.py

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

check: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here; install Python 3.11 or newer, or name it: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.11"; exit 1; }
	@echo "Installing into $(VENV): PyTorch with its CUDA libraries takes about 6 GB and a few minutes, once."
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[test,fast,lora]'
	@touch $@

clean:
	rm -rf runs demo-data wandb outputs multirun .mypy_cache .ruff_cache .pytest_cache .hypothesis
