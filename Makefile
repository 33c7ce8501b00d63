# For users 'make demo' and 'make test', for contributors also 'make lint' and 'make format'. Each makes .venv,
# installs and runs; nothing else is needed but Python.
#
# On Linux PyPI's PyTorch brings 3 GB of CUDA libraries. Without an NVIDIA GPU say instead
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin
BUILT := engines/built
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-instructions arm64 lint format clean

demo: .venv/demo
	$(BIN)/dnexport train --data digits --arch densenet-bc-40-12 --output $(BUILT)/digits.safetensors --resume
	$(BIN)/dnexport build engines/digits-fp16.toml
	$(BIN)/dnexport build engines/digits-int8.toml
	$(BIN)/dnexport report $(BUILT)/digits-fp16 $(BUILT)/digits-int8 --output $(BUILT)/digits.html

# Beside each other, where PyTorch's idle threads must not spin; then the tests that measure, as users run them.
test: .venv/dev
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile -m "not alone"
	$(BIN)/python -m pytest -m alone

# What computes INT8 or runs on OpenVINO; ONEDNN_MAX_CPU_ISA=AVX2 before it takes instructions away.
test-instructions: .venv/dev
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
	  -m "instructions and not alone"

# Runs a device install on emulated aarch64 Linux: as root, on Debian 12 or newer; it takes a while.
arm64: .venv/demo
	tests/arm64/run.sh

lint: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv $(BUILT)

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(INSTALL) --extra-index-url $(TORCH_INDEX) torch)

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[host,cpu,train]'
	touch $@

.venv/dev: .venv/demo
	$(INSTALL) --editable '.[host,cpu,train,dev]'
	touch $@
