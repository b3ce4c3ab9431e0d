# Everything works in a fresh clone with python3 and make; each target sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
export BENTOML_DO_NOT_TRACK = True
unexport PYTHONDONTWRITEBYTECODE  # or each of a hundred processes compiles all modules again
MODELS ?= digits instruments

.PHONY: help run test soak image-test serve bento bench figures notebook licences audit-deps constraints lowest clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

run: .venv/ready  ## train, validate and export both built-in tasks, then send the service one digit and one note
	$(BIN)/percept run digits
	$(BIN)/percept run instruments
	$(BIN)/python -m benchmarks.first_answer

test: .venv/ready  ## ruff, mypy --strict, pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy beside pytest; a worker more than there are cores, since some wait for servers, browsers and Ray;
	@# threads of a worker that have nothing to do leave their core to the others
	$(BIN)/mypy & mypy=$$!; \
	OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0; tests=$$?; \
	wait $$mypy && exit $$tests

soak: .venv/ready  ## pytest's long repetitions, which `make test` leaves out
	$(BIN)/pytest -m soak

image-test: .venv/ready  ## build the container's image with Debian's podman, run it, and measure it; as root
	$(BIN)/pytest -m image -rs tests/test_image.py

serve: .venv/ready  ## serve the models of the store on port 3000
	$(BIN)/percept serve

bento: .venv/ready  ## build a Bento with some models of the store, as in make bento MODELS="digits birds"
	PERCEPT_BENTO="$(MODELS)" $(BIN)/bentoml build

bench: .venv/ready  ## measure training, sweeps, augmentation, growth, the front end and the service beside their peers
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.augmentation
	$(BIN)/python -m benchmarks.gpu
	$(BIN)/python -m benchmarks.growth --out docs/performance
	$(BIN)/python -m benchmarks.frontend
	$(BIN)/python -m benchmarks.first_answer
	$(BIN)/python -m benchmarks.timeline
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.worst

figures: .venv/ready  ## train the examples of docs/unit.md and redraw its pictures
	docs/figures.sh

notebook: .venv/ready  ## write docs/unit.md as build/unit.ipynb, for Jupyter and Colab
	$(BIN)/python -m docs.notebook build/unit.ipynb

licences: .venv/ready  ## write docs/licences.md: the packages that the image installs, and their licences
	$(BIN)/python -m docs.licences

audit-deps: .venv/ready  ## known vulnerabilities of what constraints.txt pins; where their data cannot be reached, the pins
	PATH="$(BIN):$$PATH" deploy/audit.sh

constraints: .venv/ready  ## renew constraints.txt: the newest versions of everything, if the whole suite passes with them
	.ci/versions newest

lowest: .venv/ready  ## the suite with the lowest versions that pyproject.toml promises
	.ci/versions lowest $(TESTS)

clean:  ## remove runs and caches; the virtual environment and the model store stay
	rm -rf runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $@
