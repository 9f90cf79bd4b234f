PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check bench clean

demo: $(INSTALLED)  ## compare every optimizer on the built-in task
	$(BIN)/thalweg compare

test: $(INSTALLED)  ## the whole test suite
	$(BIN)/pytest

check: $(INSTALLED)  ## what CI runs: lint, format, types, tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/pytest

bench: $(INSTALLED)
	$(BIN)/python benchmarks/fashion_mnist.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist
