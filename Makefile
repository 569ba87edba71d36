# make demo   the whole path on generated scenes, ending in a report page
# make test   formatter, linter, type checker and tests, on an installed copy
# make soak   trials of three hours: runs killed or disturbed and continued, thousands of steps watched for growth, an hour of fuzzing;
#             on an installed copy, too; its figures are in soak.json
# Each makes its own virtual environment; a second call reuses it until the requirements change.

PYTHON ?= python3
DEMO_ARGS ?= --overwrite

.PHONY: demo test soak copy install format clean

demo: .venv/installed
	.venv/bin/python tools/demo.py $(DEMO_ARGS)

test: .venv-test/installed
	.venv-test/bin/ruff format --check .
	.venv-test/bin/ruff check .
	$(MAKE) copy
	cd tests && ../.venv-test/bin/mypy --config-file ../pyproject.toml -p convmae
	.venv-test/bin/pytest --numprocesses auto --maxprocesses 4

soak: .venv-test/installed copy
	status=0; for part in kills restarts leaks fuzz; do \
		.venv-test/bin/python tests/soak/$$part.py --output soak.json || status=1; \
	done; exit $$status

copy: .venv-test/installed
	.venv-test/bin/pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	rm -rf build *.egg-info

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip setuptools
	.venv/bin/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv-test/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/pip install --quiet --upgrade pip setuptools
	.venv-test/bin/pip install --quiet --constraint constraints.txt ".[test]"
	touch $@

format:
	.venv-test/bin/ruff format .
	.venv-test/bin/ruff check --fix .

clean:
	rm -rf .venv .venv-test build *.egg-info .mypy_cache .pytest_cache .ruff_cache
