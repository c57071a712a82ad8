# `make help` lists the targets. Variables can be set on the command line:
#   make setup PYTHON=python3.12 EXTRAS=dev,gpu
#   make train CONFIG=configs/smoke.py:steps=24 WORKDIR=runs/mine
#   make train ARGS=--config.optim.lr=1e-3
#   make test ARGS="tests/ops -k masking"

PYTHON ?= python3
EXTRAS ?= dev
CONFIG ?= configs/smoke.py
WORKDIR ?= runs/smoke
ARGS ?=

VENV_PYTHON := .venv/bin/python
comma := ,
STAMP := .venv/.installed-$(subst $(comma),-,$(EXTRAS))

.DEFAULT_GOAL := help
.PHONY: setup train test lint bench docs clean help

setup: $(STAMP)  ## install into .venv what constraints.txt pins

train: $(STAMP)  ## train CONFIG in WORKDIR (2 minutes by default)
	$(VENV_PYTHON) main.py --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

test: $(STAMP)  ## run the tests, two files at a time
	$(VENV_PYTHON) -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(STAMP)  ## check style and formatting
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .

bench: $(STAMP)  ## measure speed and memory
	$(VENV_PYTHON) -m benchmarks $(ARGS)

docs: $(STAMP)  ## build docs/_build/html; fetches nothing
	$(VENV_PYTHON) -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo open docs/_build/html/index.html

clean:  ## remove build files and caches; .venv and runs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache docs/_build
	find . -path ./.venv -prune -o -type d -name __pycache__ -prune \
	  -exec rm -rf {} +

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  make \1\t\2/p' Makefile

# The stamp is only written when everything is installed; an interrupted or
# outdated installation is completed by the next target that needs it.
$(STAMP): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) \
	  else "vidscenic needs Python 3.11 or newer, $(PYTHON) is %d.%d. Name " \
	  "another one: make setup PYTHON=python3.12" % (v[0], v[1]))'
	$(PYTHON) -m venv .venv
	$(VENV_PYTHON) -m pip install -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $(STAMP)
