# The two commands: make site, make test. The rest is for looking around.
SHELL := /bin/sh
.DEFAULT_GOAL := help
export LC_ALL := C.UTF-8
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Relative names only: the clone's path may have spaces, and make's targets may not.
VENV := .venv
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
CACHE := $$HOME/.cache/unikernels.xen
PACKAGES := python3 python3-venv qemu-system-x86 qemu-utils mmdebstrap fdisk e2fsprogs openssh-client \
	openvpn openssl xz-utils lz4 zstd curl gcc bind9-dnsutils iputils-ping git ca-certificates bubblewrap \
	python3-pathspec make nftables iproute2
LAB_MACHINE ?= xen1
LAB_FOLDER = "$${LAB_DIR:-$(CACHE)/lab}"
ARGS ?=

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

setup: $(VENV)/ready ## Debian's packages and one virtual environment

$(VENV)/ready: requirements.txt Makefile
	@missing=; for package in $(PACKAGES); do \
	  dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then \
	  echo "== Installing Debian's packages:$$missing"; \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 update >$(VENV).log 2>&1 && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Acquire::Retries=3 --no-install-recommends install $$missing >>$(VENV).log 2>&1 || \
	  { grep -E '^(E|W|sudo):' $(VENV).log | tail -n 3; echo "Debian's packages could not be installed: is the package mirror reachable? (log: $(VENV).log)"; exit 1; }; \
	fi
	@echo "== Making the virtual environment $(VENV)"
	@/usr/bin/python3 -m venv $(VENV) && $(VENV)/bin/python -m pip install -q -r requirements.txt >$(VENV).log 2>&1 || \
	  { grep -E '^(ERROR|error)' $(VENV).log | tail -n 3; echo "Python's packages could not be installed: is the package index reachable? (log: $(VENV).log)"; exit 1; }
	@rm -f $(VENV).log; touch $(VENV)/ready

site: setup ## the lab, Xen, and three services that answer
	@$(RUN) ansible-playbook site.yml $(ARGS)

real: setup ## the same with MirageOS: its toolchain, three unikernels from source
	@echo "== MirageOS's toolchain: up to an hour the first time; what was interrupted is resumed"
	@become=; [ "$$(id -u)" = 0 ] || become=--become; $(RUN) ansible-playbook playbooks/builder.yml $$become $(ARGS)
	@echo "== Three unikernels from source, about five minutes each the first time, in the lab in place of stand-ins"
	@$(RUN) LAB_IMAGES=build ansible-playbook site.yml $(ARGS)

lab: setup ## boot the lab's machines only
	@$(RUN) ansible-playbook playbooks/lab.yml $(ARGS)

lab-save: setup ## save xen1 for machines that start in seconds: make lab-save ARGS="-e lab_save_as=NAME"
	@$(RUN) ansible-playbook playbooks/lab_save.yml $(ARGS)

lab-down: setup ## end the lab and remove its machines
	@$(RUN) ansible-playbook playbooks/lab_down.yml $(ARGS)

lab-ssh: setup ## a shell in Dom0 (LAB_MACHINE=xen2 for the second)
	@$(RUN) tools/lab-ssh $(LAB_MACHINE) $(ARGS)

lab-console: ## follow a machine's serial console
	@tail -n 50 -f $(LAB_FOLDER)/machines/$(LAB_MACHINE)/console.log

test: test-setup ## everything that CI checks
	@$(RUN) tests/run $(ARGS)

test-all: test-setup ## that, and what takes hours: docs/testing.md
	@$(RUN) tests/run all

matrix: test-setup ## unit tests and validate.yml on each ansible-core that is supported
	@$(RUN) tests/run matrix

mutants: test-setup ## would the unit tests notice? make mutants ARGS="domain --each 60"
	@$(RUN) python tests/mutants.py $(ARGS)

test-setup: $(VENV)/tests-ready

$(VENV)/tests-ready: tests/requirements.txt $(VENV)/ready
	@command -v shellcheck >/dev/null || { echo "== Installing shellcheck"; \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 update >$(VENV).log 2>&1 && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install shellcheck >>$(VENV).log 2>&1 || \
	  { grep -E '^(E|W|sudo):' $(VENV).log | tail -n 3; echo "shellcheck could not be installed (log: $(VENV).log)"; exit 1; }; }
	@$(VENV)/bin/python -m pip install -q -r tests/requirements.txt >$(VENV).log 2>&1 || \
	  { grep -E '^(ERROR|error)' $(VENV).log | tail -n 3; echo "Python's packages could not be installed (log: $(VENV).log)"; exit 1; }
	@rm -f $(VENV).log; touch $(VENV)/tests-ready

lint: test-setup ## ansible-lint, yamllint, ruff, mypy; galaxy-importer, antsibull-docs, REUSE
	@$(RUN) tests/run lint

sanity: test-setup ## ansible-test's sanity tests
	@$(RUN) tests/run sanity

unit: test-setup ## the pure parts, in seconds
	@$(RUN) tests/run unit

integration: test-setup ## every promise on a lab of its own
	@$(RUN) tests/run integration

molecule: test-setup ## the scenarios of role developers
	@$(RUN) tests/run molecule

bench: setup ## ratios of speed, on the lab that make site made
	@$(RUN) python tests/bench/images.py && $(RUN) python tests/bench/shipping.py && $(RUN) python tests/bench/domains.py

bench-peers: setup ## the same job by this collection, community.libvirt and xl; on that lab
	@$(RUN) python tests/bench/peers.py

docs: setup ## the documentation site, in build/docs
	@tools/publish docs

screenshots: test-setup docs ## that site in Debian's chromium: first page, a module, a role; .cache/screenshots
	@$(RUN) BROWSER_SHOTS=.cache/screenshots python -m pytest -q tests/browser/test_documentation.py

picture: setup ## the README's picture, from two runs on the lab
	@mkdir -p build; : >build/site.log; for run in 1 2; do echo '$$ ansible-playbook site.yml' >>build/site.log; \
	  $(RUN) ansible-playbook site.yml $(ARGS) >>build/site.log || exit 1; done; \
	$(RUN) python tools/picture.py docs/run.svg build/site.log

stranger: setup ## a role in another folder, tested with the tarball alone
	@$(RUN) tests/stranger

release: setup ## check, build and sign the tarball: docs/releases.md
	@RELEASE_KEY="$(RELEASE_KEY)" tools/publish release

changelog: setup ## turn the fragments into the changelog of galaxy.yml's version
	@tools/publish changelog

completion: ## names of these targets for bash: eval "$$(make -s completion)"
	@cat tools/completion.bash

clean: ## remove what make setup made
	rm -rf $(VENV) $(VENV).log .ansible build

.PHONY: help setup test-setup test-all matrix mutants site real lab lab-save lab-down lab-ssh lab-console test lint sanity unit integration molecule bench bench-peers docs screenshots picture stranger release changelog completion clean
