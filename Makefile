PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PIP_INSTALL := pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint check peers dist bench clean

demo: $(INSTALLED)  ## compare every optimizer on the built-in task
	$(BIN)/thalweg compare

test: $(INSTALLED)  ## the whole test suite
	$(BIN)/pytest

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

check: lint test  ## lint, format, types, tests

peers: $(INSTALLED)  ## the tests beside other libraries, which are installed for them
	$(BIN)/$(PIP_INSTALL) -e ".[dev,integrations,peers]"
	$(BIN)/$(PIP_INSTALL) --no-deps "timm>=1.0.31"  # what it depends on is not needed
	$(BIN)/pytest tests/integrations tests/peers

dist: $(INSTALLED)  ## build wheel and sdist, and see that each installs into an empty environment
	rm -rf dist build
	$(BIN)/python -m build --outdir dist
	for package in dist/*.whl dist/*.tar.gz; do \
		$(PYTHON) -m venv --clear build/venv && \
		build/venv/bin/$(PIP_INSTALL) "$$package[lab]" && \
		build/venv/bin/thalweg explain adam > build/explained || exit 1; \
	done

bench: $(INSTALLED)  ## the time of a step, beside torch; then of training
	$(BIN)/thalweg bench step
	$(BIN)/python benchmarks/fashion_mnist.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/$(PIP_INSTALL) -e ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist
