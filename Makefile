# make demo: the main job to a rendered report.   make test: every check there is, on all cores.   make prepare: before a commit.
# make lab: the tutorials in JupyterLab.
# make tables: every table of the papers on stand-in data, an hour and a half; killed, it goes on.   make tables TABLE=lode_table05: one of them.
PY ?= python3
V := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo lab test prepare docs bench shots clean
all: demo

# Debian's python3 without python3-venv makes no pip in a venv: the second line puts it there with the pip outside
$(V)/.ok: pyproject.toml constraints.txt
	$(PY) -m venv .venv || ($(PY) -m venv --clear --without-pip .venv && $(PY) -m pip --python $(V)/python install -q pip)
	$(V)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(V)/.ok
	mkdir -p reports/quick
	$(V)/papermill nbs/run_lode.ipynb reports/quick/lode.ipynb
	-$(V)/jupyter trust reports/quick/lode.ipynb
	$(V)/python -m skelnb.reporting.html reports/quick/lode.ipynb

# where there is no screen, it says the address to open elsewhere
SCREEN = $(DISPLAY)$(WAYLAND_DISPLAY)$(filter Darwin,$(shell uname))
lab: $(V)/.ok
	$(V)/jupyter lab $(if $(SCREEN),,--no-browser) $(if $(filter 0,$(shell id -u)),--allow-root) --LabApp.default_url=/lab/tree/nbs/tutorial_first_report.ipynb

test: $(V)/.ok
	$(V)/python -m pytest -q -n auto --dist worksteal

prepare: $(V)/.ok
	$(V)/nbdev-export && $(V)/nbdev-clean && $(MAKE) test

docs: $(V)/.ok
	$(V)/python -m skelnb.reporting.docs

bench: $(V)/.ok
	for b in tests/bench/bench_*.py; do echo "== $$b"; $(V)/python $$b || exit 1; done

shots: $(V)/.ok
	$(V)/python tests/shots.py

PROFILE ?= standin
CORES ?= $(or $(GPUS),2)
# GPUS=4: four jobs at a time, a GPU for each; without it a job for each core, and those on one GPU wait for each other
GPUS ?=
SWEEP = $(V)/snakemake -s reports/Snakefile -d . --config profile=$(PROFILE)
# Snakemake's limit of jobs a second wakes it again and again for each job there has been; over hundreds of jobs that costs a third of a core, over ten seconds little
CALM = $(if $(TABLE),,--max-jobs-per-timespan 1000/10s)
# one sweep at a time; what a killed one left locked or half written is unlocked and made again
tables: $(V)/.ok
	mkdir -p runs && flock -n runs/sweep.lock sh -c '$(SWEEP) --unlock --quiet && $(SWEEP) -c$(CORES) $(if $(GPUS),--resources gpu=$(GPUS)) \
	  $(CALM) --rerun-incomplete --rerun-triggers mtime input --quiet rules --keep-going $(TABLE)'  # tables last, behind an option without values

clean:
	rm -rf .venv reports/quick runs
