# The only way to run the checks, here and in CI. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := .cache
export BOSH_AGENT_CACHE := $(CURDIR)/$(CACHE)
EXAMPLE := $(CACHE)/example-release.tgz
GO_RELEASE := $(CACHE)/go-release.tgz
DIST := dist/bosh-agent

# The portable binary is linked by zig against the symbols of an old glibc. Both come from PyPI, pinned.
ZIG_TOOLS := $(CACHE)/zig
ZIGBUILD_VERSION := 0.24.0
ZIGLANG_VERSION := 0.17.0
GLIBC := 2.17
TARGET := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')

# The test runner, built where it is missing. Its own speed does not matter, so it is built quickly instead of optimized.
NEXTEST_VERSION := 0.9.143
export PATH := $(CURDIR)/$(CACHE)/cargo/bin:$(PATH)

# The tests in containers: a filter of nextest.
CONTAINERS := binary(integration) & test(/(^|::)containers::/)

export CARGO_TERM_COLOR ?= auto

.PHONY: help demo test reports summary soak bench fuzz check setup unit containers dist example deny clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## Compile a real release on this machine, and say how to look at the result
	@packaging-scripts/example-release/demo

test: reports check unit dist containers summary ## Everything that CI runs
	@echo "highest glibc symbol version of $(DIST): $$(integration/glibc-version $(DIST))"

reports:
	@rm -rf target/nextest/reports

summary: ## Why tests were skipped, and the slowest ten
	@tests/summary

check: ## Format, lints, documentation
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

setup: ## Install what the tests need, where it is missing: Debian's packages, cargo-nextest
	@integration/setup || { [ -z "$${BOSH_AGENT_TEST_REQUIRE_ALL:-}" ] && echo "what is missing will make tests skip" >&2; }
	@command -v cargo-nextest >/dev/null || \
	  cargo install --locked --debug --root $(CACHE)/cargo --version $(NEXTEST_VERSION) cargo-nextest

unit: setup $(EXAMPLE) $(GO_RELEASE) ## Tests that need no container
	tests/run unit --lib --bins --test it --test integration -E 'not ($(CONTAINERS))'
	cargo test --locked --doc
	python3 -B -m doctest benches/whole-runs/model.py
	@# The same contents whatever keeps packages apart.
	if [ "$$(id -u)" = 0 ]; then \
	  for isolation in namespace userns landlock; do \
	    BOSH_AGENT_TEST_ISOLATION=$$isolation tests/run unit-$$isolation --test it -E 'test(/^(output|compiled_inputs)::/)'; \
	  done; \
	else echo "not root: the tests of other isolations are skipped"; fi

containers: setup dist $(EXAMPLE) $(GO_RELEASE) ## Tests in containers of a stemcell-like image
	integration/checker/self-test
	@integration/stemcell-image || { [ -z "$${BOSH_AGENT_TEST_REQUIRE_ALL:-}" ] && echo "without the image container tests skip" >&2; }
	tests/run containers --test integration -E '$(CONTAINERS)'

soak: reports setup dist $(EXAMPLE) $(GO_RELEASE) ## The long form of the tests: full sizes, whole releases, hundreds of repetitions
	BOSH_AGENT_SOAK=1 NEXTEST_PROFILE=soak tests/run soak --release --test it --test integration \
	  -E 'test(/^(scale|stops|parallel|late_output|faults|protect_host|https|containers|compilation_vm)::/)'
	@tests/summary

bench: setup ## Benchmarks: archives, the queue, sandboxes, and whole runs beside a serial reference (as root, about twenty minutes)
	cargo bench --locked --bench archive --bench queue --bench sandbox
	cargo build --locked --release
	benches/whole-runs/compare

fuzz: ## Ten minutes each on archives, manifests, requests and sandbox reports (needs cargo-fuzz; the compiler's own nightly features are unlocked for it)
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	for target in archive manifest request report; do \
	  mkdir -p fuzz/corpus/$$target; \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	    -max_total_time=$${FUZZ_SECONDS:-600} -timeout=20 -rss_limit_mb=1024 -print_final_stats=1; \
	done

dist: $(DIST) ## The portable binary: glibc 2.17 symbols at most, no other shared library

$(DIST): $(ZIG_TOOLS)/.installed-$(ZIGBUILD_VERSION)-$(ZIGLANG_VERSION) $(shell find src -name '*.rs') Cargo.toml Cargo.lock
	PATH="$(CURDIR)/$(ZIG_TOOLS)/bin:$(CURDIR)/$(ZIG_TOOLS)/ziglang:$$PATH" PYTHONPATH="$(CURDIR)/$(ZIG_TOOLS)" \
	  cargo zigbuild --locked --release --target $(TARGET).$(GLIBC)
	mkdir -p dist
	install -m 0755 target/$(TARGET)/release/bosh-agent $@
	integration/glibc-version --at-most $(GLIBC) $@

$(ZIG_TOOLS)/.installed-%:
	rm -rf $(ZIG_TOOLS)
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target $(ZIG_TOOLS) \
	  cargo-zigbuild==$(ZIGBUILD_VERSION) ziglang==$(ZIGLANG_VERSION)
	touch $@

example: $(EXAMPLE) $(GO_RELEASE) ## The tarballs of the example release and of the Go release

$(EXAMPLE): $(shell find packaging-scripts/example-release -type f 2>/dev/null)
$(GO_RELEASE): $(shell find packaging-scripts/go-release -type f 2>/dev/null)
$(EXAMPLE) $(GO_RELEASE): $(CACHE)/%.tgz: packaging-scripts/assembling.bash
	@mkdir -p $(@D)
	packaging-scripts/$*/assemble $@

deny: ## Licences, advisories and sources of all crates (needs cargo-deny and its database)
	cargo deny --locked check

clean: ## Remove what was built
	cargo clean
	rm -rf $(CACHE) dist
