# make demo: the main job to a rendered report.   make test: every check there is, on all cores.   make prepare: before a commit.
PY ?= python3
V := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test prepare bench clean
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

test: $(V)/.ok
	$(V)/python -m pytest -q -n auto --dist worksteal

prepare: $(V)/.ok
	$(V)/nbdev-export && $(V)/nbdev-clean && $(MAKE) test

bench: $(V)/.ok
	for b in tests/bench/bench_*.py; do echo "== $$b"; $(V)/python $$b || exit 1; done

clean:
	rm -rf .venv reports/quick runs
