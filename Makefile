# make demo   the whole product on a small photo set, nothing to download but packages
# make check  what is quick: ruff, mypy and three tests of four, in two minutes
# make test   every test but the fault campaigns
# make lint   ruff and mypy
# make docs   the site of the documentation, in build/site
# make faults every fault campaign, with an hour of soak; a rerun resumes
# make newest    what is quick, on the newest packages: numpy 2, mediapipe 1.x, OpenCV 5
# make torchless core, cache and prep on the newest packages without torch
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NEWEST := $(VENV)-newest
TORCHLESS := $(VENV)-torchless

.PHONY: demo check test lint docs faults newest torchless clean

define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "faceguide needs Python 3.11 or newer: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "Python lacks venv: sudo apt-get install python3-venv"; exit 1; }
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
endef

# Missing libraries of OpenCV are named by any command, mediapipe's only when it finds faces.
define libraries
	@$(@D)/bin/prep --version >/dev/null
	@$(@D)/bin/python -c 'import sys; from faceguide.preprocess.detect.finders import mediapipe_package; \
	  sys.exit(mediapipe_package.fault() or 0)'
	touch $@
endef

# mediapipe 0.10.21 and numpy 1 end at Python 3.12.
$(STAMP): setup.cfg constraints.txt constraints-new.txt
	$(environment)
	$(BIN)/pip install --quiet --editable '.[test]' --constraint \
	  constraints$$($(BIN)/python -c 'import sys; print("-new" * (sys.version_info >= (3, 13)))').txt
	$(libraries)

$(NEWEST)/.installed: setup.cfg constraints-new.txt
	$(environment)
	$(@D)/bin/pip install --quiet --no-deps --requirement constraints-new.txt --editable .
	$(@D)/bin/pip check
	$(libraries)

$(TORCHLESS)/.installed: setup.cfg constraints-new.txt
	$(environment)
	grep -vE '^(torch|captum)==' constraints-new.txt \
	  | $(@D)/bin/pip install --quiet --no-deps --requirement /dev/stdin --editable .
	$(libraries)

demo: $(STAMP)
	PATH="$$(cd $(BIN) && pwd):$$PATH" sh bench/demo.sh demo

# A file's tests stay in one process: they share what is dear to make. One thread each, for torch's
# threads would wait for each other.
pytest = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest \
  --numprocesses logical --maxprocesses 4 --dist loadfile

# tests/conftest.py says what is slow.
check: lint
	$(call pytest,$(VENV)) -m "not slow"

test: $(STAMP)
	$(call pytest,$(VENV))

newest: $(NEWEST)/.installed
	$(call pytest,$(NEWEST)) -m "not slow"

torchless: $(TORCHLESS)/.installed
	$(call pytest,$(TORCHLESS)) tests/core tests/cache tests/preprocess

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/mkdocs build --strict --quiet

faults: $(STAMP)
	PATH="$$(cd $(BIN) && pwd):$$PATH" python -m tests.campaigns

clean:
	rm -rf $(VENV) $(NEWEST) $(TORCHLESS) demo faults build *.egg-info
