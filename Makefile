# The three commands: make run, make test, make lab. Each sets up what it needs first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two processes run the tests side by side; a file stays whole, since its tests share what they train.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
# For the smaller CPU-only torch: make run TORCH_INDEX=<the CPU index named on pytorch.org, "Get started">
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: run test test-fast test-trl test-kernels lab data benchmark notebooks assignments colab site clean

run: $(READY)
	$(BIN)/alignlab run

test: $(READY) .venv-colab/.ready .venv-site/.ready
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-fast: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

lab: $(READY)
	$(BIN)/alignlab lab

# Rebuilds data/: grammar files, base model, sampled pairs.
data: $(READY)
	$(BIN)/python -m alignlab.tools.build

# The numbers of the README and of docs/benchmarks.md.
benchmark: $(READY)
	$(BIN)/python -m alignlab.tools.benchmark

# The notebooks' outputs, of one clean run at full length, and each one's minutes.
notebooks: $(READY)
	$(BIN)/python -m alignlab.tools.classroom run

# An nbgrader course, with an assignment for each lab and one of all: source/ with solutions, release/ with the students' copies.
assignments: $(READY)
	$(BIN)/python -m alignlab.tools.classroom assignments course

# Colab badges and set-up cells for your own fork: make colab REPO=owner/name
colab: $(READY)
	$(BIN)/python -m alignlab.tools.classroom colab $(REPO)

# The notebooks with their results and the documents, as static pages in site/. Nothing is run; with the tools installed, no network is needed.
site: .venv-site/.ready
	rm -rf site
	.venv-site/bin/sphinx-build --quiet --fail-on-warning --keep-going --doctree-dir build/site/doctrees docs site

# The extra "site" alone, in an environment of its own.
.venv-site/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['site'], sep='\n')" > .venv-site/tools.txt
	.venv-site/bin/python -m pip install --quiet --constraint constraints.txt --requirement .venv-site/tools.txt
	touch $@

# Our losses and first steps against TRL; each version in an environment of its own, where files for the other skip themselves.
test-trl: .venv-trl-1.16/.ready .venv-trl-1.12/.ready
	PYTHONPATH=. .venv-trl-1.16/bin/python -m pytest --override-ini addopts= tests/trl
	PYTHONPATH=. .venv-trl-1.12/bin/python -m pytest --override-ini addopts= tests/trl

.venv-trl-%/.ready: tests/trl/requirements-%.txt
	$(PYTHON) -m venv .venv-trl-$*
	.venv-trl-$*/bin/python -m pip install --quiet torch==2.13.0
	.venv-trl-$*/bin/python -m pip install --quiet -r $<
	touch $@

# Colab's kernel and widgets, over the packages of $(VENV): live training must work there too (make test runs both).
test-kernels: $(READY) .venv-colab/.ready
	$(BIN)/python -m pytest tests/test_kernels.py

.venv-colab/.ready: tests/requirements-colab-kernel.txt $(READY)
	$(PYTHON) -m venv .venv-colab
	.venv-colab/bin/python -m pip install --quiet -r $<
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$$(.venv-colab/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/over.pth"
	touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'alignlab needs Python >= 3.11; this is ' + sys.version.split()[0] + ': make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable ".[lab,smol,test]"
	touch $@

clean:
	rm -rf $(VENV) .venv-trl-* .venv-colab .venv-site runs build dist site
