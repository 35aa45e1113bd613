# Each target does all of its set-up; `make` alone lists them.

BIN = .venv/bin

help:
	@echo "make demo              try FleetShell with throw-away servers (make demo ARGS=--keep leaves them running)"
	@echo "make test              everything that must pass: lint, types, tests (make test ARGS='tests/core -x')"
	@echo "make lint              lint and types alone"
	@echo "make conformance       the official MCP conformance suites, the Inspector and real clients; needs npm"
	@echo "make soak              load, faults and bad input for about half an hour (FLEETSHELL_SOAK_SECONDS=60 and the like: less)"
	@echo "make docs              write what is made from the code: pages of docs/, man page, completions, the demo's picture"
	@echo "make bench             measure speed"
	@echo "make clean             remove what these made, .venv too"

demo:
	@.ci/setup run
	@$(BIN)/python fleetshell.py demo $(ARGS)

test: lint
	@echo "== tests"
	@$(BIN)/python tests/run.py $(ARGS)
	@$(if $(ARGS),,$(BIN)/python tests/other_pythons.py)

lint:
	@.ci/setup dev
	@echo "== lint"
	@$(BIN)/ruff check .
	@echo "== format"
	@$(BIN)/ruff format --check .
	@echo "== types"
	@$(BIN)/mypy --strict

conformance:
	@.ci/setup dev
	@$(BIN)/python tests/conformance/programs.py
	@$(BIN)/python -m pytest tests/conformance tests/clients $(ARGS)

soak:
	@.ci/setup dev
	@FLEETSHELL_SOAK=1 $(BIN)/python -m pytest -s tests/soak $(ARGS)

docs:
	@.ci/setup dev
	@$(BIN)/python tests/support/docs.py
	@$(BIN)/python tests/support/reference.py
	@$(BIN)/python tests/support/demo_svg.py

bench:
	@.ci/setup dev
	@$(BIN)/python tests/bench/__main__.py $(ARGS)

clean:
	rm -rf .venv .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help demo test lint conformance docs soak bench clean
