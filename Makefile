# `make run` and `make test` are all that a newcomer needs; `make help` lists the rest.
CARGO ?= cargo
.PHONY: help run test check bench fmt lint golden clean check-tools
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: check-tools ## build and run every test
	@$(CARGO) test --workspace

check: check-tools ## type-check everything, tests and examples included
	@$(CARGO) check --workspace --all-targets

bench: check-tools ## measure what this machine can read per second
	@$(CARGO) run --release --quiet -- bench bw

fmt: check-tools ## format every file
	@$(CARGO) fmt --all

lint: check-tools ## clippy and rustdoc without a warning
	@$(CARGO) clippy --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

clean: ## delete everything that was built
	@$(CARGO) clean

check-tools:
	@.ci/check-tools $(CARGO)
