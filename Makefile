# The commands of this repository. `make demo` shows Tidegate at work, `make test` checks everything.
.DEFAULT_GOAL := help
.PHONY: help setup build demo stack-up stack-down test lint fmt deny e2e bench benchtest explore fuzz mutants

DEMO_ARGS ?=
PROFILE ?= dev

# rustup puts cargo where not every shell looks.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## protoc, etcd, Envoy and a gRPC client, where they are missing
	@scripts/setup.sh

build: setup ## the library and the binary
	cargo build

demo: setup ## a control plane, one edge, two cores and back ends on this machine; DEMO_ARGS=--once exits after the tour
	cargo run --quiet -- demo $(DEMO_ARGS)

stack-up: setup ## the same and more in containers, on networks of their own; PROFILE=release takes minutes to build
	cargo build --quiet --bins --profile $(PROFILE)
	@scripts/stack.sh up $(addprefix target/$(PROFILE:dev=debug)/,tidegate backend)

stack-down: ## stops and removes the containers, and the docker engine, if stack-up started it
	@scripts/stack.sh down

# The same cases for everybody: a rare one is looked for by `make explore`, and is not met in somebody else's change.
test: export PROPTEST_RNG_SEED ?= 1
test: setup lint ## format, lints, and every test, those with real Envoys and etcd included
	timeout --kill-after=60 60m cargo test --no-fail-fast

lint: setup ## format and lints, warnings refused
	cargo fmt --check
	cargo clippy --all-targets --quiet -- -D warnings

fmt: ## formats the code
	cargo fmt

e2e: setup ## only the tests with real Envoys and etcd
	cargo test --test e2e

deny: ## licences, bans and sources of the dependencies (builds cargo-deny into .tools/ the first time: minutes)
	@[ -x .tools/bin/cargo-deny ] || cargo install --quiet --locked --root .tools cargo-deny
	.tools/bin/cargo-deny --log-level warn check bans licenses sources

ROUNDS ?= 5

explore: ## property tests and fuzz targets on seeds that no run had before, ROUNDS times
	cargo test --lib --no-run
	for round in $$(seq $(ROUNDS)); do \
		seed() { od -An -N4 -tu4 /dev/urandom | tr -d ' '; }; \
		FUZZ_SEED=$$(seed) PROPTEST_RNG_SEED=$$(seed) cargo test --lib || exit 1; \
	done

TARGET ?= sessions
SECONDS ?= 60

fuzz: ## libFuzzer for a while on the nightly compiler (see fuzz/README.md); TARGET=requests|sessions|manifests, SECONDS
	@[ -x .tools/bin/cargo-fuzz ] || cargo install --quiet --locked --root .tools cargo-fuzz
	PATH=$(CURDIR)/.tools/bin:$(PATH) cargo +nightly fuzz run --sanitizer none $(TARGET) -- -max_total_time=$(SECONDS)

MUTANTS ?=

mutants: ## mutation testing of the protocol engine, all of it or MUTANTS=src/serve/sotw.rs (see docs/mutants.md); JOBS at a time
	cargo run --release --quiet --locked --manifest-path mutants/Cargo.toml --target-dir target -- $(MUTANTS)

BENCH ?=
SCALE ?= 1
RUNS ?= 3

bench: setup ## every scenario of bench/ against Tidegate and its peers, into bench/report.md; BENCH=S1 one, SCALE, RUNS
	cargo build --release --bin tidegate
	cargo build --release --locked --manifest-path bench/Cargo.toml --target-dir target
	@if command -v go >/dev/null; then cd bench/peers/go-control-plane && go build -o $(CURDIR)/target/release/go-control-plane-peer .; \
		else rm -f target/release/go-control-plane-peer; echo 'Go is missing: its peer is skipped'; fi
	@cargo build --release --locked --manifest-path bench/peers/rust-control-plane/Cargo.toml --target-dir target \
		|| { rm -f target/release/rust-control-plane-peer; echo 'rust-control-plane does not build: it is skipped'; }
	BENCH=$(BENCH) SCALE=$(SCALE) RUNS=$(RUNS) target/release/xds-bench target/release/tidegate target/release/go-control-plane-peer bench

benchtest: ## format, lints and tests of bench/ itself
	cd bench && cargo fmt --check
	cd bench/peers/rust-control-plane && cargo fmt --check
	cargo clippy --locked --all-targets --quiet --manifest-path bench/Cargo.toml --target-dir target -- -D warnings
	cargo test --locked --quiet --manifest-path bench/Cargo.toml --target-dir target
	cargo clippy --locked --quiet --manifest-path bench/peers/rust-control-plane/Cargo.toml --target-dir target -- -D warnings
