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

export CARGO_TERM_COLOR ?= auto

.PHONY: help demo test soak bench fuzz check setup unit containers dist example deny clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## Compile a real release on this machine, and say how to look at the result
	@packaging-scripts/example-release/demo

test: check unit dist containers ## Everything that CI runs
	@echo "highest glibc symbol version of $(DIST): $$(integration/glibc-version $(DIST))"

check: ## Format, lints, documentation
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

setup: ## Install what the tests need from Debian's packages, where it is missing
	@integration/setup || { [ -z "$${BOSH_AGENT_TEST_REQUIRE_ALL:-}" ] && echo "what is missing will make tests skip" >&2; }

unit: setup $(EXAMPLE) $(GO_RELEASE) ## Tests that need no container
	cargo test --locked --lib --bins --test it
	cargo test --locked --test integration -- --skip containers::
	cargo test --locked --doc
	python3 -B -m doctest benches/whole-runs/model.py
	@# The same contents whatever keeps packages apart.
	if [ "$$(id -u)" = 0 ]; then \
	  for isolation in namespace userns landlock; do \
	    BOSH_AGENT_TEST_ISOLATION=$$isolation cargo test --locked --test it -- output:: compiled_inputs::; \
	  done; \
	else echo "not root: the tests of other isolations are skipped"; fi

containers: setup dist $(EXAMPLE) $(GO_RELEASE) ## Tests in containers of a stemcell-like image
	integration/checker/self-test
	@integration/stemcell-image || { [ -z "$${BOSH_AGENT_TEST_REQUIRE_ALL:-}" ] && echo "without the image container tests skip" >&2; }
	cargo test --locked --test integration containers::

soak: ## The long form of the tests: full sizes, hundreds of repetitions
	BOSH_AGENT_SOAK=1 cargo test --locked --release --test it scale:: stops:: parallel:: late_output:: faults::
	BOSH_AGENT_SOAK=1 cargo test --locked --release --test integration -- --skip containers:: --nocapture https:: compilation_vm::

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
