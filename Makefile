# The entry point for developers and the CI.
# To use another Python: make demo PYTHON=python3.12

PYTHON ?= python3
export PYTHON

BIN := .venv/bin
CODE := gmt_core evaluators sweeps tests examples benchmarks tools docs/site

# Tests on Ray start machines of their own and run one after another; the others share the cores.
ON_RAY := tests/sweeps/on_ray
PARALLEL := --numprocesses logical --maxprocesses 8 --dist loadfile --ignore $(ON_RAY)

.DEFAULT_GOAL := help
.PHONY: help demo test check site pages resolve canaries lock format clean

help:  ## Show this list.
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-10s %s\n", $$1, $$2}'

demo:  ## Run three small studies on the CPU, and print where to view them.
	@tools/install.sh run
	@echo "==> running sweeps/configs/mini.yaml"
	@$(BIN)/python -m sweeps run sweeps/configs/mini.yaml

test:  ## Run the tests.
	@tools/install.sh dev
	@echo "==> tests"
	@$(BIN)/python -m pytest $(PARALLEL)
	@echo "==> tests on Ray"
	@$(BIN)/python -m pytest $(ON_RAY)

check:  ## Run format, lint, types and tests (with layers and doc links).
	@tools/install.sh dev
	@echo "==> format"
	@$(BIN)/ruff format --check $(CODE)
	@echo "==> lint"
	@$(BIN)/ruff check $(CODE)
	@echo "==> types"
	@$(BIN)/mypy
	@echo "==> tests (with layers and doc links)"
	@$(BIN)/python -m pytest --durations=10 $(PARALLEL)
	@echo "==> tests on Ray"
	@$(BIN)/python -m pytest --durations=10 $(ON_RAY)

site:  ## Build the documentation in build/site; a broken link is an error.
	@tools/install.sh dev
	@echo "==> site"
	@rm -rf build/site_source && mkdir -p build/site_source
	@git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C build/site_source
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml
	@echo "open build/site/index.html"

pages:  ## Test every report page in Chromium, on two screens, light and dark.
	@tools/install.sh dev
	@echo "==> report pages in Chromium"
	@$(BIN)/python -m pytest -m pages -rs tests/sweeps/report/test_pages.py

resolve:  ## Check that the pinned set resolves for each Python and system (queries the index).
	@tools/install.sh dev
	@echo "==> resolution of the pinned set"
	@$(BIN)/python -m pytest -m network tests/test_resolution.py

canaries:  ## Test with the newest Ray, Optuna, MLflow and transformers (asks the index).
	@tools/canaries.sh

lock:  ## Regenerate constraints.txt; to upgrade: make lock LOCK="--upgrade-package ray".
	@tools/install.sh dev
	@MACOSX_DEPLOYMENT_TARGET=14.0 $(BIN)/python -m uv pip compile --quiet --universal --no-config \
		--no-annotate --custom-compile-command "make lock" --python-version 3.11 \
		--group dev --group build --extra cluster --extra eval --extra lora --extra postgres \
		--output-file constraints.txt $(LOCK) pyproject.toml

format:  ## Format the code and apply the linter's automatic fixes.
	@tools/install.sh dev
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

clean:  ## Remove the environment and tool caches (never results).
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
