# make demo   set up .venv, then train the same network on real data with several optimizers (a few minutes)
# make test   set up .venv, then lint, type-check and test
# make lint   ruff and mypy alone
# make docs   build the site into build/docs, strictly

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test lint docs clean

KERNELS := $(wildcard rnnopt/layers/kernels/*.cpp rnnopt/layers/kernels/*.h)

$(READY): pyproject.toml constraints.txt setup.py $(KERNELS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip setuptools
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --group dev --group docs --group examples --editable ".[cli,estimator,data,export,sweep,tensorboard,mlflow,baselines]"
	touch $(READY)

demo: $(READY)
	$(BIN)/rnnopt compare --task digits-pixels --budget 1500evaluations --seeds 0 1 2 --optimizers \
		adam adam:clip=1 muon frank-wolfe \
		frank-wolfe:norm=2,inner_steps=5,outer=adam,momentum=0,lr=0.01,average=none

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --cov --cov-report=term

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv build *.egg-info rnnopt/layers/kernels/*.so rnnopt/layers/kernels/build.json
