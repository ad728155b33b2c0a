# make demo   set up .venv, then train the same network on real data with several optimizers (a few minutes)
# make test   set up .venv, then lint, type-check and test: each promise, in under five minutes
# make test-full  make test, then the tests that take long; what CI runs
# make lint   ruff and mypy alone
# make coverage  all tests, and which lines they reach; slower
# make docs   build the site into build/docs, strictly
# make test-newest, make test-oldest   the tests with the newest torch there is, with the oldest we name

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
EXTRAS := cli,estimator,data,recordings,export,openvino,sweep,tensorboard,mlflow,baselines

.PHONY: demo test test-full coverage test-torch test-newest test-oldest lint docs clean

KERNELS := $(wildcard rnnopt/layers/kernels/*.cpp rnnopt/layers/kernels/*.h)

$(READY): pyproject.toml constraints.txt setup.py $(KERNELS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip setuptools
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --group dev --group docs --group examples --editable ".[$(EXTRAS)]"
	touch $(READY)

demo: $(READY)
	$(BIN)/rnnopt compare --task digits-pixels --budget 1500gradients --seeds 0 1 2 --optimizers \
		adam adam:clip=1 muon frank-wolfe \
		frank-wolfe:norm=2,inner_steps=5,outer=adam,momentum=0,lr=0.01,average=none

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test: lint
	$(PYTEST) -m "not full"

test-full: test
	$(PYTEST) -m "full and not slow"

# Minutes more of what faster tests check at smaller size; before a release.
test-slow: $(READY)
	$(PYTEST) -m slow

coverage: $(READY)
	$(PYTEST) --cov --cov-report=term

# Another torch in an environment of its own, .venv-torch-VERSION; the rest as in constraints.txt, but for
# what torch itself pins. Files or options: make test-oldest TESTS="tests/test_elman.py -x".
TORCH ?= newest
TESTS ?= --numprocesses 2 --dist worksteal
OTHER := .venv-torch-$(TORCH)

test-newest:
	$(MAKE) test-torch TORCH=newest

test-oldest:
	$(MAKE) test-torch TORCH=$(shell sed -n 's/^dependencies = .*torch>=\([0-9.]*\).*/\1.0/p' pyproject.toml)

test-torch:
	$(PYTHON) -m venv $(OTHER)
	grep -v -i -E '^(torch|triton|setuptools)==' constraints.txt > $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --quiet --constraint $(OTHER)/constraints.txt --upgrade pip setuptools
	$(OTHER)/bin/python -m pip install --quiet --constraint $(OTHER)/constraints.txt --upgrade $(if $(filter newest,$(TORCH)),torch,torch==$(TORCH))
	PYTHONWARNINGS=ignore $(OTHER)/bin/python -m pip install --quiet --constraint $(OTHER)/constraints.txt --no-build-isolation --group dev --editable ".[$(EXTRAS)]"
	$(OTHER)/bin/python -c "import torch; print('torch', torch.__version__)"
	$(OTHER)/bin/python -m pytest $(TESTS)

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv .venv-torch-* build *.egg-info rnnopt/layers/kernels/*.so rnnopt/layers/kernels/build.json
