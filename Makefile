# The developer's manual: `make help` lists every target.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Whatever environment the caller is in: maturin installs where these say.
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
unexport CONDA_PREFIX
JOBS ?= 2
# Gzip by ISA-L is twice as fast and needs these to build; without them the portable decoder is used.
ISAL_TOOLS := nasm autoreconf libtoolize
have_isal = $(shell command -v $(ISAL_TOOLS) 2>/dev/null | wc -l | grep -qx 3 && echo isal)
FEATURES = $(if $(have_isal),--features isal)
INSTALLED := $(VENV)/.installed
# With the flags of a Make that runs two things at once it warns that it cannot reach that Make.
CARGO := MAKEFLAGS= cargo
# The core with overflow checks and assertions, compiled in pieces; its dependencies as they are.
CHECKED := $(addprefix --config profile.release.package.equipoise-core., \
	overflow-checks=true debug-assertions=true codegen-units=16)
# What maturin would install, so that it can come while the core is compiled.
WANTED = import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*project["dependencies"], *project["optional-dependencies"]["dev"], sep="\n")
# With the workspace's features, so that the crates are those that `build` has made.
FUZZ = $(CARGO) build --release --quiet --workspace $(FEATURES) $(CHECKED) --example fuzz && \
	target/release/examples/fuzz --jobs $(JOBS)
RUST_SOURCES := $(shell find rust_ext -name '*.rs' -o -name 'Cargo.toml') Cargo.toml Cargo.lock

.PHONY: help build demo test all-rust all-python test-rust test-python test-fuzz fuzz lint lint-rust lint-python bench clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/bin/python:
	@command -v cargo >/dev/null || { echo "Rust is missing: install rustc and cargo (1.89 or later)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

.PHONY: tools
tools:
	@if [ -z "$(have_isal)" ] && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		echo "Installing nasm, autoconf, automake and libtool for ISA-L"; \
		(apt-get install -y -qq nasm autoconf automake libtool || \
		 { apt-get update -qq && apt-get install -y -qq nasm autoconf automake libtool; }) >/dev/null 2>&1 || true; \
	fi
	@command -v $(ISAL_TOOLS) >/dev/null 2>&1 || \
		echo "nasm, autoconf, automake or libtool is missing: gzip will be read by the portable, slower decoder"

$(INSTALLED): $(VENV)/bin/python pyproject.toml $(RUST_SOURCES) | tools
	$(BIN)/pip install --quiet 'maturin>=1.9,<2'
	$(BIN)/maturin develop --release --skip-install --quiet $(FEATURES) & core=$$!; \
	$(BIN)/python -c '$(WANTED)' | $(BIN)/pip install --quiet -r /dev/stdin; pip=$$?; \
	wait $$core && exit $$pip
	$(BIN)/maturin develop --release --extras dev --quiet $(FEATURES)
	@touch $@

build: $(INSTALLED) ## Make the virtual environment and build the Rust extension (release mode)

demo: build ## Walk the whole road on a simulated hospital; ends with the path of report.html
	$(BIN)/equipoise demo --out demo --force

test: build ## Run every test: Rust, Python, lint, types, a little fuzzing
	$(MAKE) --no-print-directory -j $(JOBS) all-rust all-python

# One after the other, for Cargo lets no two at what is built.
all-rust:
	$(MAKE) --no-print-directory lint-rust
	$(MAKE) --no-print-directory test-rust
	$(MAKE) --no-print-directory test-fuzz

all-python:
	$(MAKE) --no-print-directory lint-python
	$(MAKE) --no-print-directory test-python

test-rust: build
	$(CARGO) test --release --quiet --workspace $(FEATURES) $(CHECKED)

test-python: build
	$(BIN)/pytest -q -n $(JOBS) --dist worksteal

test-fuzz: build
	$(FUZZ) --seconds 60

fuzz: build ## Two million random mutations of small tables (about 20 minutes): no panic, no wrong count
	$(FUZZ) --seed $$(date +%s) --count 2000000

lint: lint-rust lint-python ## Formatting, lints, types, and the stubs of the compiled module

lint-rust: build
	cargo fmt --check
	$(CARGO) clippy --release --quiet --all-targets $(FEATURES) -- -D warnings

lint-python: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest equipoise._core

bench: build ## Measure speed and memory against rivals (results are asserted equal first)
	$(BIN)/maturin develop --release --extras dev,bench --quiet $(FEATURES)
	$(BIN)/python benches/extract.py
	$(BIN)/python benches/refit.py
	$(BIN)/python benches/bootstrap.py
	$(BIN)/python benches/downstream.py
	$(BIN)/python benches/sma.py
	$(BIN)/python benches/generator.py

clean: ## Remove what was built
	rm -rf $(VENV) target demo .mypy_cache .ruff_cache .pytest_cache .hypothesis python/equipoise/_core*.so
