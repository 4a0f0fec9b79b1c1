# Every target builds .venv by itself when it is missing or older than what it is made from.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.made
RUN := $(VENV)/bin/python
PATHS := tensorring adapters tests benchmarks docs/examples

# Other libraries to compare with, each in an environment of its own: some cap NumPy and SciPy.
PEERS := tensorly pyttb torchTT tntorch
PEER_STAMPS := $(PEERS:%=.venv-bench/%/.made)

.PHONY: demo test test-slow lint format bench bench-peers clean

demo: $(STAMP)
	$(RUN) docs/examples/demo.py

test: $(STAMP)
	HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-ci} OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 \
	$(RUN) -m pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

test-slow: $(STAMP)
	HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-ci} OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 \
	$(RUN) -m pytest -n 2 --dist worksteal -m slow $(ARGS)

lint: $(STAMP)
	$(RUN) -m ruff format --check $(PATHS)
	$(RUN) -m ruff check $(PATHS)
	$(RUN) -m mypy

format: $(STAMP)
	$(RUN) -m ruff format $(PATHS)
	$(RUN) -m ruff check --fix $(PATHS)

bench: $(STAMP) bench-peers
	$(RUN) -m benchmarks.run $(ARGS)

bench-peers: $(PEER_STAMPS)

# One that cannot be installed leaves its message in install.log; the tables then show that.
.venv-bench/%/.made: benchmarks/peers/%.txt
	$(PYTHON) -m venv --clear $(@D)
	if $(@D)/bin/python -m pip install --progress-bar off -r $< > $(@D)/install.log 2>&1; \
	then touch $@; else tail -n 1 $(@D)/install.log; rm -f $(@D)/bin/python; fi

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --progress-bar off -c constraints.txt -e '.[torch,testing,demo,bench]'
	touch $@

clean:
	rm -rf $(VENV) .venv-bench .mypy_cache .ruff_cache .pytest_cache .hypothesis
