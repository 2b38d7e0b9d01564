# For developers. Users need only ./run.sh and ./test.sh.
PYTHON ?= .venv.cpu/bin/python
UV ?= .venv.cpu/bin/uv
LOCK = $(UV) pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.PHONY: export check-export lint lock

export:        ## write main.py and README.md from README.ipynb
	$(PYTHON) scripts/export.py

check-export:  ## fail, changing nothing, unless main.py and README.md are what README.ipynb gives
	$(PYTHON) scripts/export.py --check

lint:
	$(PYTHON) -m ruff check .

lock:          ## resolve requirements/*.in anew
	$(LOCK) --override requirements/override.txt requirements/cpu.in -o requirements/cpu.txt
	$(LOCK) requirements/gpu.in -o requirements/gpu.txt
	$(LOCK) --constraint requirements/cpu.txt requirements/test.in -o requirements/test.txt
