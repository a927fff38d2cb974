# Two commands set up everything on a machine with Python 3.11 and make: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: quickstart quickstart-segmentation test torture lint clean

quickstart: $(STAMP)
	$(VENV)/bin/python scripts/quickstart.py --output_dir quickstart

quickstart-segmentation: $(STAMP)
	$(VENV)/bin/python scripts/quickstart.py --task segmentation --output_dir quickstart-segmentation

test: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pytest -n 2 --dist loadfile

# The long parts of docs/reliability.md, of which `make test` runs a sample.
torture: $(STAMP)
	$(VENV)/bin/pytest -m torture --timeout 1800 --dist loadfile -n 2

lint: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The stamp is written last: an interrupted installation is taken up again, a finished one is reused.
$(STAMP): setup.cfg pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist quickstart quickstart-segmentation src/*.egg-info
