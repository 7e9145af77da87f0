# Everything from a fresh clone needs Python 3.11, make and git only.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: compare test test-all clean

compare: $(VENV)/installed
	$(RUN) -m benchmarks.compare --solver highs

# Small tensors on several threads wait for each other more than they work.
test test-all: export OMP_NUM_THREADS ?= 1
# A file's tests share what they plan and train, so files go to processes whole.
PYTEST := $(RUN) -m pytest -n 2 --dist loadfile

test: $(VENV)/installed
	$(PYTEST)

test-all: $(VENV)/installed
	$(PYTEST) -m ''

# torch first: see constraints.txt.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt torch
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .cache out
