# `make run` and `make test` are all that a newcomer needs; `make help` lists the rest.
CARGO ?= cargo
.PHONY: help run test test-aarch64 check bench bench-peers fmt lint golden crash readme pocket clean check-tools ray
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: check-tools ## build the program and let the built-in model answer
	@$(CARGO) build --release && $(CARGO) run --release --quiet -- run "What is the capital of France?"

test: check-tools ## build and run every test
	@$(CARGO) test --workspace

test-aarch64: check-tools ## cross-build for AArch64, test under QEMU and compare fingerprints (half an hour on 2 cores)
	@.ci/aarch64

check: check-tools ## type-check everything, tests and examples included
	@$(CARGO) check --workspace --all-targets

bench: check-tools ## measure what this machine can do at most
	@$(CARGO) run --release --quiet -- bench machine

bench-peers: check-tools ## measure beside llama.cpp: LLAMA_BIN=build/bin [SHAPE=llama-1b] [TYPES=q4_0,q8_0,q4_k_m] [ARGS=...]
	@$(CARGO) build --release && python3 contrib/peers/bench_peers.py --llama-bin "$(LLAMA_BIN)" --shape $(or $(SHAPE),llama-1b) --types $(or $(TYPES),q4_0) $(ARGS)

fmt: check-tools ## format every file
	@$(CARGO) fmt --all

lint: check-tools ## clippy and rustdoc without a warning
	@$(CARGO) clippy --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

golden: check-tools ## compare with the reference data in $$QUERN_SHARED, else ../shared
	@$(CARGO) test --test integration golden -- --nocapture

crash: check-tools ## kill a batch a thousand times, change its model a hundred times, and run one of 100,000 records
	@QUERN_CRASH_POINTS=1000 $(CARGO) test --test integration -- --nocapture batch::crash a_model_that_changes
	@QUERN_BATCH_RECORDS=100000 $(CARGO) test --test integration memory_and_descriptors -- --nocapture

ray: check-tools ## install Ray beside the build and run batches on a cluster of this machine
	@test -x target/ray/venv/bin/ray || { python3 -m venv target/ray/venv && target/ray/venv/bin/pip install -r contrib/ray/requirements.txt; }
	@$(CARGO) build --release && target/ray/venv/bin/python contrib/ray/test_quern_ray.py

readme: check-tools ## write the README's table of families anew
	@QUERN_WRITE_README=1 $(CARGO) test --test integration readme

pocket: check-tools ## train the built-in model anew (about 80 minutes; goes on where it was stopped) and measure it
	@test -d target/pocket/venv || { python3 -m venv target/pocket/venv && target/pocket/venv/bin/pip install -r models/pocket/requirements.txt; }
	@target/pocket/venv/bin/python models/pocket/train.py && target/pocket/venv/bin/python models/pocket/export.py && $(CARGO) build --release
	@target/release/quern import target/pocket/pocket --quant q8 -o models/pocket/pocket.quern && target/pocket/venv/bin/python models/pocket/evaluate.py --sample 50

clean: ## delete everything that was built
	@$(CARGO) clean

check-tools:
	@.ci/check-tools $(CARGO)
