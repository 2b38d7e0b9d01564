# For developers. Users need only ./run.sh and ./test.sh.
PYTHON ?= .venv.cpu/bin/python
UV ?= .venv.cpu/bin/uv
COMPILE = $(UV) pip compile --quiet --universal --python-version $(if $(findstring newest,$@),3.11,3.10) --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
LOCK = $(COMPILE) --generate-hashes

.PHONY: docs export check-export lint lock lock-newest

export:        ## write main.py and README.md from README.ipynb
	$(PYTHON) scripts/export.py

check-export:  ## fail, changing nothing, unless main.py and README.md are what README.ipynb gives
	$(PYTHON) scripts/export.py --check

lint:          ## style, types, and the direction of imports between rooms
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(dir $(PYTHON))lint-imports --cache-dir .import_linter_cache

lock: lock-newest   ## resolve requirements/*.in anew
	$(LOCK) --override requirements/override.txt requirements/cpu.in -o requirements/cpu.txt
	$(LOCK) requirements/gpu.in -o requirements/gpu.txt
	# The same for pip, which takes no hashes where a package asks for another's extras, as the lock leaves them out.
	$(COMPILE) --no-annotate --no-strip-extras --constraint requirements/gpu.txt requirements/gpu.in -o requirements.txt
	$(LOCK) --constraint requirements/cpu.txt requirements/test.in -o requirements/test.txt

lock-newest:   ## only what ./test.sh --newest installs; its vLLM needs a later Python than the rest
	$(LOCK) --override requirements/override.txt requirements/newest.in -o requirements/newest.txt

docs:          ## the pages of docs/ as a site that needs no network, in docs/_build/html; dead links fail
	$(PYTHON) -m sphinx -q -E -W --keep-going -b html docs docs/_build/html
