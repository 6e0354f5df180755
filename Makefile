# Everything here works in a fresh clone with Python 3.11, 3.12 or 3.13, and a second call does only what is left to do.
# Settings are environment variables: `make run PORT=8000 DEVICE=cpu`. docs/configuration.md lists them.

python := .venv/bin/python
setup  := PYTHON="$(PYTHON)" scripts/setup.sh
beside := -n $(shell nproc | awk '{ print $$1 < 4 ? $$1 + 1 : 4 }') --dist loadgroup --no-loadscope-reorder
uv     := UV_SYSTEM_CERTS=1 .venv/bin/uv --quiet

.PHONY: help setup weights run test test-slow test-page test-clients test-scale demo screenshots bench audit attack overload soak sanitize lock
help:     ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1:/p' Makefile | awk -F: '{ printf "  make %-12s %s\n", $$1, substr($$0, length($$1) + 2) }'

setup:    ## make .venv and install what is missing (PYTHON=python3.12 chooses the interpreter)
	@$(setup)

weights: setup  ## fetch the models' weights that are missing
	@$(python) -m weights.fetch

run: weights    ## start the service on port 10005
	@$(python) app.py

test: ## run the linters, the type checker and the tests (ARGS="-k name" goes to pytest; COVERAGE=1 measures, in one process)
	@$(setup) --dev
	@$(python) -m weights.fetch
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	$(python) scripts/layers.py
	$(python) -m pytest $(if $(COVERAGE),--cov,$(beside)) $(ARGS)

test-slow: ## run the tests that take minutes
	@$(setup) --dev
	@$(python) -m weights.fetch
	$(python) -m pytest -m slow $(ARGS)

test-page: ## try the page at / in a real browser, which must be there (apt-get install chromium)
	@command -v chromium > /dev/null || { echo "make test-page needs Chromium: apt-get install chromium" >&2; exit 1; }
	@$(setup) --dev
	@$(python) -m weights.fetch
	$(python) -m pytest -m browser tests/page $(beside) $(ARGS)

test-clients: ## generate clients from the OpenAPI document, in Python and TypeScript, and run them (fetches packages from npm)
	@$(setup) --dev
	@$(python) -m weights.fetch
	$(python) -m pytest -m clients tests/clients $(beside) $(ARGS)

test-scale: ## try several workers and servers; nginx and Redis must be there (apt-get install nginx-light redis-server)
	@{ command -v nginx && command -v redis-server; } > /dev/null || { echo "Needed: apt-get install nginx-light redis-server" >&2; exit 1; }
	@$(setup) --dev
	@$(setup) --ray
	@$(python) -m weights.fetch
	$(python) -m pytest -m scale $(ARGS)

screenshots: weights ## take the screenshots of the page, with Chromium (apt-get install chromium fonts-inter)
	@$(setup) --dev
	@$(python) -m bench.images.screenshots

audit: setup    ## ask osv.dev whether a vulnerability is known in what is installed (says so where it cannot be reached)
	@$(python) scripts/audit.py

attack: weights ## send what the OpenAPI document allows and forbids, by the hundred, to a server of its own (schemathesis)
	@$(python) -m bench.load.attack

overload: weights ## send four times what the server can do, for SECONDS=60, and report in docs/benchmarks.md
	@$(python) -m bench.load.overload $(SECONDS)

demo: weights   ## show what it does to pictures
	@$(python) -m bench.images.demo

bench:    ## measure docs/benchmarks.md (QUICK=1: three minutes, small pictures; ARGS="pass128 start" names some sections)
	@$(setup) --bench
	@$(python) -m weights.fetch
	@$(python) -m bench $(if $(QUICK),--quick) $(ARGS)

soak: weights   ## keep it under every kind of load for SECONDS=600, see that nothing grows, and report in docs/benchmarks.md
	@$(python) -m bench.load.soak $(SECONDS)

sanitize: ## run the engine for CPUs over odd sizes under the address, undefined and thread sanitizers (needs g++)
	@scripts/sanitize.sh

lock:     ## write uv.lock and requirements.txt anew, after a change in pyproject.toml (ARGS="--upgrade-package quart")
	@$(setup) --dev
	@$(uv) lock $(ARGS)
	@$(uv) export --frozen --no-dev --no-emit-project --no-hashes --no-annotate --output-file requirements.txt
