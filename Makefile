# feedgate. `make` says what there is.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

DESTDIR ?=
PREFIX ?= /usr/local
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# Debian's names. To build, to run, to test.
BUILD_PACKAGES := gcc libc6-dev libmnl-dev libnftnl-dev pkg-config
RUN_PACKAGES := curl iproute2 nftables util-linux
TEST_PACKAGES := iputils-ping libfaketime logrotate rsyslog rsyslog-gnutls rsyslog-openssl sqlite3 systemd
SYSTEMD_PACKAGES := debootstrap systemd-container
VM_PACKAGES := busybox-static cpio kmod qemu-system-x86 xz-utils
# Tests that need the memory of the whole machine; .config/nextest.toml says why, and names the same ones.
ALONE := a_million_prefixes two_hundred_thousand busy::
# Kernels of `make test-kernels`, of 5.10, 6.1, 6.12 and newest.
KERNELS ?= 6.1

# The Debian of `make test-systemd`.
SUITE ?= bookworm

EXAMPLE := src/config/feedgate.toml

.PHONY: help deps test-deps build test test-containers test-kernels test-systemd soak soak-short demo bench lint audit install clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what building and running need (apt; only what is missing)
	@$(call install_missing,$(BUILD_PACKAGES) $(RUN_PACKAGES))

test-deps: deps
	@$(call install_missing,$(TEST_PACKAGES))
	@$(call unpack_promtool)

build: ## build the release binary
	$(CARGO) build --release --locked

test: test-deps ## run all tests (as root: the integration tests make network namespaces)
	$(CARGO) test --locked --doc
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    set -x; $(CARGO) nextest run --locked; \
	else \
	    echo "cargo-nextest is not installed (cargo install --locked cargo-nextest); using cargo test"; \
	    set -x; $(CARGO) test --locked --lib --bins --tests -- $(addprefix --skip ,$(ALONE)) && \
	    $(CARGO) test --locked --test it -- --test-threads 1 $(ALONE); \
	fi

test-containers: deps ## name real containers of runc, podman, docker and containerd (root; installs them)
	$(SUDO) tests/containers/run

test-kernels: test-deps ## run the netfilter tests on real Debian kernels in virtual machines (KERNELS="6.1 newest")
	@$(call install_missing,$(VM_PACKAGES))
	$(SUDO) tests/kernels/run $(KERNELS)

test-systemd: deps ## install, run, kill, reboot and uninstall the shipped units under a systemd of its own (root)
	@$(call install_missing,$(SYSTEMD_PACKAGES))
	$(CARGO) build --locked
	$(SUDO) env CARGO_TARGET_DIR=$(abspath $(TARGET)) SUITE=$(SUITE) tests/systemd/run

soak: test-deps ## everything at once for SOAK_SECONDS (600), as root: kills, feeds, policies, outages; a table at the end
	$(CARGO) test --locked --test it --no-run
	$(SUDO) env PATH="$$PATH" SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(CARGO) test --locked --test it -- --ignored --exact soak::soak --nocapture

soak-short: ## the same for two minutes
	@$(MAKE) --no-print-directory soak SOAK_SECONDS=120

demo: deps ## the threat feed lab on this machine, without a network (root)
	@echo "building feedgate (debug build: it is ready much sooner than the release)"
	$(CARGO) build --locked
	$(SUDO) $(TARGET)/debug/feedgate demo

bench: ## run the benchmarks
	$(CARGO) bench --locked

lint: deps ## format, clippy, documentation, licences
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    set -x; $(CARGO) deny --locked check bans licenses sources; \
	else \
	    echo "cargo-deny is not installed (cargo install --locked cargo-deny): bans and licences are not checked"; \
	fi

audit: ## look for known security advisories (needs cargo-deny and the network)
	$(CARGO) deny --locked check advisories

install: ## install below $(DESTDIR)$(PREFIX); build first; a configuration that is there is kept
	install -Dm 0755 $(TARGET)/release/feedgate $(DESTDIR)$(PREFIX)/sbin/feedgate
	@$(foreach file,$(wildcard nft/*.nft nft/examples/*.nft),install -Dvm 0644 $(file) $(DESTDIR)$(PREFIX)/share/feedgate/$(file);)
	@$(foreach file,$(wildcard systemd/*.service),\
	    install -d $(DESTDIR)$(PREFIX)/lib/systemd/system && \
	    sed 's|/usr/local/|$(PREFIX)/|g' $(file) > $(DESTDIR)$(PREFIX)/lib/systemd/system/$(notdir $(file));)
	install -Dm 0644 systemd/feedgate.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/feedgate.conf
	install -Dm 0644 systemd/feedgate.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/feedgate.conf
	install -Dm 0644 systemd/feedgate-pod.conf $(DESTDIR)$(PREFIX)/share/feedgate/systemd/feedgate-pod.conf
	@if [ -e $(DESTDIR)/etc/feedgate/feedgate.toml ]; then \
	    echo "$(DESTDIR)/etc/feedgate/feedgate.toml is kept"; \
	else \
	    install -Dvm 0640 $(EXAMPLE) $(DESTDIR)/etc/feedgate/feedgate.toml; \
	fi

clean: ## remove what was built
	$(CARGO) clean

# promtool, which checks metrics and alert rules, out of Debian's package of Prometheus (19 MB): only that one
# file. Installing the package would start a Prometheus server.
define unpack_promtool
set -e; \
if ! command -v promtool >/dev/null && [ ! -x $(TARGET)/tools/promtool ] && command -v apt-get >/dev/null; then \
    echo "getting promtool"; \
    scratch=$$(mktemp -d); \
    trap 'rm -rf "$$scratch"' EXIT; \
    (cd "$$scratch" && { apt-get download -q prometheus || { $(SUDO) apt-get update -q && apt-get download -q prometheus; }; } \
        && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool); \
    mkdir -p $(TARGET)/tools; \
    mv "$$scratch/usr/bin/promtool" $(TARGET)/tools/promtool; \
fi
endef

# $(call install_missing,PACKAGES)
define install_missing
set -e; \
if ! command -v dpkg-query >/dev/null; then \
    missing=; \
    for tool in cc pkg-config ip nft curl nsenter; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
    for lib in libnftnl libmnl; do pkg-config --exists $$lib 2>/dev/null || missing="$$missing $$lib(-devel)"; done; \
    if [ -z "$$missing" ]; then exit 0; fi; \
    echo "Not found:$$missing" >&2; \
    echo "make deps knows apt only. Install with your package manager what Debian calls:" >&2; \
    echo "    $(BUILD_PACKAGES) $(RUN_PACKAGES) $(TEST_PACKAGES)" >&2; \
    exit 1; \
fi; \
missing=; \
for package in $(1); do \
    dpkg-query -W -f '$${db:Status-Status}\n' $$package 2>/dev/null | grep -qx installed || missing="$$missing $$package"; \
done; \
if [ -n "$$missing" ]; then \
    echo "installing:$$missing"; \
    $(SUDO) apt-get update -q; \
    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; \
fi
endef
