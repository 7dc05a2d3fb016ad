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
TEST_PACKAGES := iputils-ping libfaketime logrotate runc rsyslog rsyslog-gnutls rsyslog-openssl sqlite3 systemd
LAB_PACKAGES := perl-base runc
IMAGE_PACKAGES := curl debootstrap perl-base runc
SYSTEMD_PACKAGES := debootstrap systemd-container
VM_PACKAGES := busybox-static cpio kmod qemu-system-x86 xz-utils
# Tests that need the memory of the whole machine; .config/nextest.toml says why, and names the same ones.
ALONE := a_million_prefixes two_hundred_thousand busy::
# Kernels of `make test-kernels`, of 5.10, 6.1, 6.12 and newest.
KERNELS ?= 6.1

# The Debian of `make test-systemd`.
SUITE ?= bookworm

EXAMPLE := src/config/feedgate.toml

# What `make install` puts where. STRIP= keeps the line tables (65 MB more).
BIN ?= $(TARGET)/release/feedgate
STRIP ?= yes
SBIN := $(DESTDIR)$(PREFIX)/sbin
LIB := $(DESTDIR)$(PREFIX)/lib
SHARE := $(DESTDIR)$(PREFIX)/share
NAME_bash := completions/feedgate
NAME_zsh := _feedgate
NAME_fish := feedgate.fish
COMPLETIONS := $(SHARE)/bash-completion/$(NAME_bash) $(SHARE)/zsh/site-functions/$(NAME_zsh) \
    $(SHARE)/fish/vendor_completions.d/$(NAME_fish)
NFT := $(wildcard nft/*.nft nft/examples/*.nft)
DOCS := $(filter-out docs/development.md,$(wildcard docs/*.* docs/*/*.*)) README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE
UNITS := $(notdir $(wildcard systemd/*.service))

.PHONY: help deps test-deps build lab test test-containers test-kernels test-systemd test-packages test-image check-kubernetes soak soak-short demo demo-svg bench lint audit \
    install uninstall stage deb pack-deb rpm pack-rpm clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what building and running need (apt; only what is missing)
	@$(call install_missing,$(BUILD_PACKAGES) $(RUN_PACKAGES))

test-deps: deps
	@$(call install_missing,$(TEST_PACKAGES))
	@$(call unpack_tool,promtool,prometheus,usr/bin)

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

.PHONY: test-all test-busy
test-all: test-busy ## all that does not fit into CI: the suite on a busy machine, every kernel, containers, packages, the long soak (root; some hours)
	$(MAKE) test-kernels KERNELS="5.10 6.1 6.12 newest"
	$(MAKE) test-systemd
	$(MAKE) test-systemd SUITE=trixie
	$(MAKE) test-containers
	$(MAKE) lab
	$(MAKE) test-packages
	$(MAKE) test-image
	$(MAKE) test-fleet
	$(MAKE) check-kubernetes
	$(MAKE) soak

test-busy: test-deps ## the suite twice, beside a busy loop on each core: nothing may fail (root)
	$(CARGO) nextest run --locked --no-run
	$(SUDO) env PATH="$$PATH" CARGO="$(CARGO)" tests/busy/run

test-containers: deps ## name real containers of runc, podman, docker and containerd (root; installs them)
	$(SUDO) tests/containers/run

test-kernels: test-deps ## run the netfilter tests on real Debian kernels in virtual machines (KERNELS="6.1 newest")
	@$(call install_missing,$(VM_PACKAGES))
	$(SUDO) tests/kernels/run $(KERNELS)

test-systemd: deps ## install, run, kill, reboot and uninstall the shipped units under a systemd of its own (root)
	@$(call install_missing,$(SYSTEMD_PACKAGES))
	$(CARGO) build --locked
	$(SUDO) env CARGO_TARGET_DIR=$(abspath $(TARGET)) SUITE=$(SUITE) tests/systemd/run

lab: deps ## the lab with its Calico manifests, step by step, red in a real container (root)
	@$(call install_missing,$(LAB_PACKAGES))
	$(CARGO) build --locked
	$(SUDO) env CARGO_TARGET_DIR=$(abspath $(TARGET)) tests/lab/run

test-image: deps ## the container of the Dockerfile and the DaemonSet, without an engine: its root file system run by runc (root)
	@$(call install_missing,$(IMAGE_PACKAGES))
	$(CARGO) build --locked
	$(SUDO) env CARGO_TARGET_DIR=$(abspath $(TARGET)) tests/image/run

# kubernetes-validate of PyPI brings the schemas of Kubernetes with it.
check-kubernetes: ## hold the DaemonSet against the schemas of Kubernetes
	@[ -x $(TARGET)/tools/kubernetes/bin/kubernetes-validate ] || { echo "getting kubernetes-validate"; \
	    python3 -m venv $(TARGET)/tools/kubernetes && $(TARGET)/tools/kubernetes/bin/pip install -q kubernetes-validate; }
	for version in 1.28 1.32 1.37; do \
	    $(TARGET)/tools/kubernetes/bin/kubernetes-validate --strict -k $$version docs/kubernetes/daemonset.yaml || exit 1; done

# Nothing is linked, so Debian's libmnl and libnftnl of this machine's own kind will do.
.PHONY: check-arm
check-arm: deps ## let the compiler read all of it for 64-bit ARM (rustup, and a C compiler for it by apt)
	@$(call install_missing,gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
	rustup target add aarch64-unknown-linux-gnu
	PKG_CONFIG_ALLOW_CROSS=1 CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc $(CARGO) check --locked --target aarch64-unknown-linux-gnu

soak: test-deps ## everything at once for SOAK_SECONDS (600), as root: kills, feeds, policies, outages; a table at the end
	$(CARGO) test --locked --test it --no-run
	$(SUDO) env PATH="$$PATH" SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(CARGO) test --locked --test it -- --ignored --exact soak::soak --nocapture

soak-short: ## the same for two minutes
	@$(MAKE) --no-print-directory soak SOAK_SECONDS=120

demo: deps ## the threat feed lab on this machine, without a network (root)
	@echo "building feedgate (debug build: it is ready much sooner than the release)"
	$(CARGO) build --locked
	$(SUDO) $(TARGET)/debug/feedgate demo

demo-svg: ## run the demo and draw docs/demo.svg, the picture in the README, of what it prints (root)
	$(CARGO) build --locked
	$(SUDO) $(TARGET)/debug/feedgate demo > $(TARGET)/demo.txt
	tools/demo-svg < $(TARGET)/demo.txt > docs/demo.svg

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

install: ## install below $(DESTDIR)$(PREFIX); build first; configuration that is there is kept
	install -d $(SBIN)
	install $(if $(STRIP),-s) -m 0755 $(BIN) $(SBIN)/feedgate
	$(BIN) man $(SHARE)/man
	install -d $(dir $(COMPLETIONS))
	$(foreach shell,bash zsh fish,$(BIN) completions $(shell) > $(filter %/$(NAME_$(shell)),$(COMPLETIONS)) &&) true
	@$(foreach file,$(NFT),install -Dvm 0644 $(file) $(SHARE)/feedgate/$(file) &&) true
	@$(foreach file,$(DOCS),install -Dvm 0644 $(file) $(SHARE)/doc/feedgate/$(file) &&) true
	install -d $(LIB)/systemd/system
	@$(foreach unit,$(UNITS),sed 's|/usr/local/|$(PREFIX)/|g' systemd/$(unit) > $(LIB)/systemd/system/$(unit) && \
	    chmod 0644 $(LIB)/systemd/system/$(unit) && echo "$(LIB)/systemd/system/$(unit)" &&) true
	install -Dm 0644 systemd/feedgate.sysusers $(LIB)/sysusers.d/feedgate.conf
	install -Dm 0644 systemd/feedgate.tmpfiles $(LIB)/tmpfiles.d/feedgate.conf
	install -Dm 0644 systemd/feedgate-pod.conf $(SHARE)/feedgate/systemd/feedgate-pod.conf
	@$(call install_kept,0640,$(EXAMPLE),$(DESTDIR)/etc/feedgate/feedgate.toml)
	@$(call install_kept,0644,systemd/feedgate.logrotate,$(DESTDIR)/etc/logrotate.d/feedgate)

uninstall: ## remove what install put there, but for the configuration in /etc/feedgate, state and logs
	@[ -n "$(DESTDIR)" ] || echo "A daemon that runs goes on, and what it denies stays denied: feedgate down; systemctl disable feedgate"
	rm -f $(SBIN)/feedgate $(COMPLETIONS) $(SHARE)/man/man8/feedgate.8 $(SHARE)/man/man8/feedgate-*.8
	rm -f $(SHARE)/man/man5/feedgate.toml.5 $(UNITS:%=$(LIB)/systemd/system/%)
	rm -f $(LIB)/sysusers.d/feedgate.conf $(LIB)/tmpfiles.d/feedgate.conf $(DESTDIR)/etc/logrotate.d/feedgate
	rm -rf $(SHARE)/feedgate $(SHARE)/doc/feedgate

stage: ## put what a package holds into target/package (BIN names another binary)
	rm -rf target/package
	$(MAKE) --no-print-directory install DESTDIR=$(abspath target/package) PREFIX=/usr BIN=$(BIN) STRIP=$(STRIP)
	debian/third-party > target/package/usr/share/doc/feedgate/third-party.txt

deb: deps ## make target/debian/*.deb (gets cargo-deb into target/tools, some minutes once)
	@$(call install_missing,dpkg-dev)
	@$(call install_tool,cargo-deb)
	$(MAKE) build stage
	$(MAKE) pack-deb

pack-deb:
	PATH="$(abspath $(TARGET)/tools/bin):$$PATH" $(CARGO) deb --no-build --no-strip --output target/debian/

rpm: deps ## make target/generate-rpm/*.rpm (gets cargo-generate-rpm into target/tools, some minutes once)
	@$(call install_tool,cargo-generate-rpm)
	$(MAKE) build stage
	$(MAKE) pack-rpm

pack-rpm:
	mkdir -p target/generate-rpm
	PATH="$(abspath $(TARGET)/tools/bin):$$PATH" $(CARGO) generate-rpm --auto-req builtin --output target/generate-rpm/

test-packages: deps ## install, upgrade, remove and purge the package in a Debian of its own; look into the rpm (root)
	@$(call install_missing,$(SYSTEMD_PACKAGES) dpkg-dev rpm)
	@$(call install_tool,cargo-deb)
	@$(call install_tool,cargo-generate-rpm)
	$(CARGO) build --locked
	$(MAKE) stage pack-deb pack-rpm BIN=$(TARGET)/debug/feedgate
	$(SUDO) env CARGO_TARGET_DIR=$(abspath $(TARGET)) tests/packages/run

.PHONY: test-fleet
test-fleet: deps ## run what docs/fleet.md has for the feed mirror and the log server: cron line, nginx, rsyslog (root)
	@$(call install_missing,rsyslog)
	@$(call unpack_tool,nginx,nginx,usr/sbin)
	$(CARGO) build --locked
	$(SUDO) env CARGO_TARGET_DIR=$(abspath $(TARGET)) tests/fleet/run

clean: ## remove what was built
	$(CARGO) clean

# $(call unpack_tool,TOOL,PACKAGE,FOLDER): only that file out of a package of Debian, where it is missing: promtool, which
# checks metrics and alert rules, of Prometheus (19 MB); nginx. Installing the packages would start servers.
define unpack_tool
set -e; \
if ! command -v $(1) >/dev/null && [ ! -x $(TARGET)/tools/$(1) ] && command -v apt-get >/dev/null; then \
    echo "getting $(1)"; \
    scratch=$$(mktemp -d); \
    trap 'rm -rf "$$scratch"' EXIT; \
    (cd "$$scratch" && { apt-get download -q $(2) || { $(SUDO) apt-get update -q && apt-get download -q $(2); }; } \
        && dpkg-deb --fsys-tarfile $(2)_*.deb | tar -x ./$(3)/$(1)); \
    mkdir -p $(TARGET)/tools; \
    mv "$$scratch/$(3)/$(1)" $(TARGET)/tools/$(1); \
fi
endef

# $(call install_kept,MODE,FILE,PLACE): not over a file that is there.
define install_kept
if [ -e $(3) ]; then echo "$(3) is kept"; else install -Dvm $(1) $(2) $(3); fi
endef

# $(call install_tool,CRATE): a cargo subcommand into target/tools, unless there is one.
define install_tool
set -e; \
if ! command -v $(1) >/dev/null && [ ! -x $(TARGET)/tools/bin/$(1) ]; then \
    echo "building $(1), once: some minutes"; \
    $(CARGO) install --locked --root $(TARGET)/tools --target-dir $(TARGET)/tools/build $(1); \
    rm -rf $(TARGET)/tools/build; \
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
