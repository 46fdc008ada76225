# Everything a person or a CI calls. The environment comes first and costs nothing when nothing changed.
# KEEP=1 leaves the lab's machines up after `make demo` and `make test`. JOBS is how many tests run side by side,
# each of those that need machines on a lab of its own (3 GiB of memory each).

BIN := .venv/bin
CODE := src lab bench tests tools
PYTEST := $(BIN)/python -m pytest
JOBS := 2
# A file's tests share machines, so they stay together.
PARALLEL := -n $(JOBS) --dist loadfile
EXPORTS := tests/contract/test_exports.py $(sort $(wildcard tests/lab/test_exports*.py)) \
	tests/lab/test_lio.py tests/lab/test_restore.py tests/lab/test_takeover.py tests/lab/test_orphans.py
export PYTHONUNBUFFERED := 1

.PHONY: help test check demo tempest cluster bench attack exports fuzz lint types unit format environment clean
.NOTPARALLEL:

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: lint types ## Lint, types, unit, contract, driver, then the lab (about an hour warm)
	@tools/part tests $(PYTEST) $(PARALLEL) -m "not lab"
	@tools/part machines $(BIN)/python -m lab build
	@tools/part lab $(PYTEST) $(PARALLEL) -m lab

check: lint types ## What needs no machines: lint, types, unit, contract, driver (two minutes)
	@tools/part tests $(PYTEST) $(PARALLEL) -m "not lab and not slow"

demo: environment ## A Cinder volume's whole life on real ZFS (90 s warm, 12 minutes the first time)
	@$(BIN)/python -m lab demo

tempest: environment ## OpenStack's own volume tests, unmodified, on the lab's SAN; TEMPEST="--regex ..." for some
	@$(BIN)/python -m lab tempest $(TEMPEST)

cluster: environment ## Two cinder-volumes over one SAN, killed in turn amid 500 operations; CLUSTER="--steps ..." for some
	@$(BIN)/python -m lab cluster $(CLUSTER)

bench: environment ## Measure the driver against the limit and the 2012 draft
	@$(BIN)/python -m bench

attack: environment ## Attack the lab's SAN with real keys: what got through, if anything
	@$(PYTEST) tests/attack

exports: environment ## Every kind of export on the lab's SAN, each test named by its exporter
	@$(PYTEST) -v $(EXPORTS)

fuzz: environment ## Fuzz what reads bytes from elsewhere, FUZZ_SECONDS in all (60)
	@tools/part fuzz $(BIN)/python tools/fuzz.py

lint: environment ## ruff: rules and format
	@tools/part lint $(BIN)/ruff check $(wildcard $(CODE))
	@tools/part format $(BIN)/ruff format --check $(wildcard $(CODE))

types: environment ## mypy, strict
	@tools/part types $(BIN)/mypy $(wildcard $(CODE))

unit: environment ## The unit tests alone
	@tools/part unit $(PYTEST) tests/unit

format: environment ## Put imports and layout right
	@$(BIN)/ruff check --fix-only --select I $(wildcard $(CODE))
	@$(BIN)/ruff format $(wildcard $(CODE))

environment:
	@tools/environment

clean: ## Remove what make made here; images and compiled modules stay in the cache folder
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
