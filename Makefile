# What a person does with a checkout. Each target first installs what it needs, on a bare Debian 12 too; when nothing
# is missing, that costs nothing.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

# leafd needs Python 3.11 or later: the first python3 on the PATH where that is recent enough, else Debian's.
MODERN := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON = $(shell python3 -c '$(MODERN)' 2>/dev/null && echo python3 || echo /usr/bin/python3)

# The guest is slow, and lives off the bytecode that the session outside leaves behind.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
READY := .venv/.ready

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY) ## Start containers, kill their supervisor, and find every one of them again
	$(BIN)/python -m tests.system.demo

.PHONY: test
test: lint ## Run every test: natively where this kernel can, the others in a virtual machine
	@.ci/install crun runc
	$(BIN)/python -m pytest

.PHONY: bench
bench: $(READY) ## Measure start-up times and memory, beside crun and runc
	@.ci/install crun runc
	$(BIN)/python -m tests.bench.bench

.PHONY: oom
oom: $(READY) ## Let 100 containers run out of memory, 20 times each, in the virtual machine (about 20 minutes)
	$(BIN)/python tests/vm/run.py -- $(CURDIR)/$(BIN)/python -m tests.bench.oom --containers 100 --rounds 20

.PHONY: outage
outage: $(READY) ## Let COUNT=1000 containers end while no supervisor runs, for SECONDS=600, and check every exit
	$(BIN)/python -m tests.bench.outage outage --count $(or $(COUNT),1000) --seconds $(or $(SECONDS),600)

.PHONY: recovery
recovery: $(READY) ## Kill the supervisor of COUNT=1000 containers, and see how fast the next one has them again
	$(BIN)/python -m tests.bench.outage recovery --count $(or $(COUNT),1000)

.PHONY: cycles
cycles: $(READY) ## Start, end and remove COUNT (10000) containers under kills of leafd, nursery and shims, from SEED (random)
	$(BIN)/python -m tests.system.cycles --count $(or $(COUNT),10000) $(if $(SEED),--seed $(SEED))

.PHONY: lint
lint: $(READY) ## Check style, types and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: package
package: $(READY) ## Make sdist, wheel, leafctl.pyz and the Debian package, in dist
	@.ci/install debhelper dpkg-dev
	@$(BIN)/python packaging/build.py dist

.PHONY: clean
clean: ## Remove everything that the other targets made
	rm -rf .venv .build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find shim supervisor tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || .ci/install python3
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/install python3-venv
	@echo "installing leafd and its development tools in .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
