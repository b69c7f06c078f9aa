# Magnetar: what people type. `make` alone lists it. Everything is built in one profile (release), into one directory
# outside of this clone, so that RocksDB is compiled once per machine.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/magnetar
export CARGO_TARGET_DIR ?= $(CACHE)/target
# Where rustup puts cargo, for shells that have not been restarted since.
export PATH := $(PATH):$(HOME)/.cargo/bin
MAGNETAR := $(CARGO_TARGET_DIR)/release/magnetar
# A test that hangs ends with its program, in seconds, and fails instead of holding everything up. In the foreground, so
# that Ctrl-C reaches the program.
BOUNDED := --config 'target."cfg(all())".runner = ["timeout", "--foreground", "--kill-after=10", "1200"]'

.PHONY: help run cluster build test simulate check fmt bench soak prerequisites install

help: ## this list
	@echo "make targets:"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 24
	@echo
	@echo "  make run ARGS='--set num.partitions=4'    flags of: magnetar standalone --help"
	@echo "  make test ARGS='settings'                 only the tests whose name holds this"

prerequisites: ## install what the build needs and this machine lacks
	@.ci/prerequisites

cluster: build ## start three bookies, a broker and a metadata node as processes; DIR= names their directory
	@exec $(MAGNETAR) cluster $(if $(DIR),--dir $(DIR)) $(ARGS)

build: prerequisites ## build the program
	@cargo build --release --locked

run: build ## start a server on localhost:9092 that keeps its data
	@exec $(MAGNETAR) standalone $(ARGS)

test: prerequisites ## run every test
	@cargo test $(BOUNDED) --release --locked --workspace --no-fail-fast -- $(ARGS)

simulate: prerequisites ## a cluster under faults, by SEEDS=n, MINUTES=m or SEED=n TRACE=1; DUELS=1
	@MAGNETAR_SEEDS=$(SEEDS) MAGNETAR_MINUTES=$(MINUTES) MAGNETAR_SEED=$(SEED) MAGNETAR_SEED_FROM=$(FROM) \
		MAGNETAR_TRACE=$(TRACE) MAGNETAR_DUELS=$(DUELS) cargo test --release --locked --test simulation no_seed -- --nocapture

check: prerequisites ## rustfmt and clippy, as strict as the gate
	@cargo fmt --all --check
	@cargo clippy --release --locked --workspace --all-targets -- -D warnings

fmt: ## let rustfmt write
	@cargo fmt --all

install: build ## put the program into ~/.local/bin
	@install -D $(MAGNETAR) $(HOME)/.local/bin/magnetar
	@echo "installed $(HOME)/.local/bin/magnetar"

soak: prerequisites ## a long run under faults; KILLS=200 CUTS=50 LEADERS=50 HISTORY=600 (seconds) are its defaults
	@MAGNETAR_KILLS=$(or $(KILLS),200) MAGNETAR_CUTS=$(or $(CUTS),50) MAGNETAR_LEADERS=$(or $(LEADERS),50) \
	  MAGNETAR_SECONDS=$(or $(HISTORY),600) cargo test --release --locked --test powercut --test metadata \
	  -- --nocapture --test-threads=1

bench: build ## measure a server of its own on this disk, beside the bare disk
	@MAGNETAR=$(MAGNETAR) tests/bench.sh $(ARGS)
