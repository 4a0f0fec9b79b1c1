# Every target builds .venv by itself when it is missing or older than what it is made from.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.made
RUN := $(VENV)/bin/python
PATHS := tensorring adapters tests benchmarks docs/examples

.PHONY: demo test lint format bench clean

demo: $(STAMP)
	$(RUN) docs/examples/demo.py

test: $(STAMP)
	HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-ci} OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 \
	$(RUN) -m pytest -n 2 $(ARGS)

lint: $(STAMP)
	$(RUN) -m ruff format --check $(PATHS)
	$(RUN) -m ruff check $(PATHS)
	$(RUN) -m mypy

format: $(STAMP)
	$(RUN) -m ruff format $(PATHS)
	$(RUN) -m ruff check --fix $(PATHS)

bench: $(STAMP)
	$(RUN) -m benchmarks.run $(ARGS)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --progress-bar off -c constraints.txt -e '.[torch,testing,demo,bench]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
