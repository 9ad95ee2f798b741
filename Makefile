# What a developer, a packager and CI run. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help deps build release test quick fmt clippy deny bench soak fuzz vm demo install clean

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
PREFIX ?= /usr/local
DESTDIR ?=
export CARGO TARGET

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

deps: ## install what is missing for building and testing (Debian, root)
	@tests/scripts/deps.sh build test

build: ## debug build of every program
	@tests/scripts/deps.sh build
	$(CARGO) build --workspace --bins

release: ## optimised build of every program
	@tests/scripts/deps.sh build
	$(CARGO) build --release --workspace --bins --features bulkhead/oci
	@! grep -l BULKHEAD_FAILPOINT $(TARGET)/release/bulkhead{,-master,-agent,-executor,-helper} || \
	  { echo "these programs have failpoints: they are not for a release"; exit 1; }

test: ## everything CI runs: lints, unit, kernel, compat and VM tests
	@tests/scripts/test.sh

quick: ## fmt, tidy and the tests that need no root and no time (before each commit)
	@tests/scripts/test.sh quick

fmt: ## format the code
	$(CARGO) fmt --all

clippy: ## lints, warnings are errors
	$(CARGO) clippy --workspace --all-targets -- -D warnings

deny: ## licences, advisories, bans and sources of all dependencies (installs cargo-deny once)
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked --debug cargo-deny
	$(CARGO) deny check bans licenses sources

bench: ## SCENARIO=launch|memory|tasks|statistics|isolators|images|pull|network|gc|updates|recovery|master|docker: table and JSON lines
	@tests/scripts/bench.sh "$(SCENARIO)"

soak: ## TASKS=5000 short containers while the agent is killed at random, CRASHES=1000 of Docker
	@tests/scripts/deps.sh build test
	BULKHEAD_SOAK="$(or $(TASKS),5000)" $(CARGO) test -p bulkhead --test recovery -- --nocapture soak::
	BULKHEAD_CRASHES="$(or $(CRASHES),1000)" $(CARGO) test -p bulkhead --test docker -- --nocapture crash_loop

fuzz: ## fuzz targets for a bounded time each (SECONDS_EACH=30)
	@tests/scripts/fuzz.sh "$(or $(SECONDS_EACH),30)"

vm: ## SUITE=cgroup2|hybrid|v1: kernel tests inside a virtual machine
	@tests/scripts/vm.sh "$(or $(SUITE),cgroup2)"

demo: ## a cluster, a task, its statistics, an OOM kill; nothing stays behind
	@tests/scripts/deps.sh build
	@tests/scripts/demo.sh

install: release ## copy programs and the names operators know to DESTDIR/PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(TARGET)/release/bulkhead{,-master,-agent,-executor,-helper} $(DESTDIR)$(PREFIX)/bin/
	ln -sf bulkhead-master $(DESTDIR)$(PREFIX)/bin/mesos-master
	ln -sf bulkhead-agent $(DESTDIR)$(PREFIX)/bin/mesos-agent
	ln -sf bulkhead-agent $(DESTDIR)$(PREFIX)/bin/mesos-slave
	ln -sf bulkhead $(DESTDIR)$(PREFIX)/bin/mesos-execute
	install -d $(DESTDIR)$(PREFIX)/libexec/cni
	for plugin in bulkhead-bridge bulkhead-groups bulkhead-port-mapper mesos-cni-port-mapper; do \
	  ln -sf ../../bin/bulkhead-helper $(DESTDIR)$(PREFIX)/libexec/cni/$$plugin; done

clean: ## remove everything that was built
	$(CARGO) clean
