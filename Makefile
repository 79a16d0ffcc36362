# make demo   the whole product on a small photo set, nothing to download but packages
# make check  what is quick: ruff, mypy and three tests of four, in two minutes
# make test   every test but the fault campaigns
# make lint   ruff and mypy
# make docs   the site of the documentation, in build/site
# make faults every fault campaign, with an hour of soak; a rerun resumes
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo check test lint docs faults clean

$(STAMP): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	  || { echo "faceguide needs Python 3.11 or 3.12: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "Python lacks venv: sudo apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null \
	  || { echo "OpenCV lacks system libraries: sudo apt-get install libgl1 libglib2.0-0"; exit 1; }
	@$(BIN)/python -c 'import sys; from faceguide.preprocess.detect.finders import mediapipe_package; \
	  sys.exit(mediapipe_package.fault() or 0)'
	touch $(STAMP)

demo: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh bench/demo.sh demo

# A file's tests stay in one process: they share what is dear to make. One thread each, for torch's
# threads would wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile

# tests/conftest.py says what is slow.
check: lint
	$(PYTEST) -m "not slow"

test: $(STAMP)
	$(PYTEST)

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/mkdocs build --strict --quiet

faults: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m tests.campaigns

clean:
	rm -rf $(VENV) demo faults build *.egg-info
