# The menu; `make` alone prints it. PYTHON=python3.12 uses another Python than python3.

PYTHON = python3
bin = .venv/bin
# the variable silences what the theme has to say about a later MkDocs (ADR 0038)
site = NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict --config-file docs/site/mkdocs.yml
install = $(bin)/pip install --quiet --disable-pip-version-check --editable

.PHONY: help demo test bench soak lint docs clean

help: ## this menu
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

demo: .venv/ready ## logins by codes and by pushes through a proxy in front of an embedded directory (ONCE=1: then end)
	@$(bin)/ldapmfa demo $(if $(ONCE),--once)

test: .venv/ready-test ## everything, against real servers and clients; installs Debian packages if it may
	tests/system/install-packages
	$(bin)/pytest -q tests/wire tests/core --cov=ldapmfa.wire --cov=ldapmfa.core --cov-branch --cov-fail-under=100
	$(bin)/pytest -n 3 --dist loadfile

bench: .venv/ready ## us beside HAProxy, OpenLDAP's proxy and ldaptor's (ONLY=search,login: some rows; REPEAT=9)
	bench/install-packages
	@$(bin)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(REPEAT),--repeat $(REPEAT))

soak: .venv/ready-test ## faults under load, a week of logins, an hour of fuzzing (ONLY=kill-worker,week,fuzz; MINUTES=5)
	tests/system/install-packages
	@$(bin)/python -m tests.soak $(if $(ONLY),--only $(ONLY)) $(if $(MINUTES),--minutes $(MINUTES))

lint: .venv/ready-lint .venv/ready-docs ## style, types, import direction; whether the site of docs/ builds
	$(bin)/ruff check
	$(bin)/mypy
	$(site)

docs: .venv/ready-docs ## write anew what is generated from the code, and make the site of docs/ in build/site
	$(bin)/python -m ldapmfa.config conf > conf/ldapmfa.toml
	$(bin)/python -m ldapmfa.config reference > docs/reference/configuration.md
	$(bin)/python -m ldapmfa.cli.reference cli > docs/reference/cli.md
	$(bin)/python -m ldapmfa.cli.reference man > docs/reference/ldapmfa.1
	$(bin)/python -m ldapmfa.net.metrics > docs/reference/metrics.md
	$(bin)/python docs/attacks.py
	$(site)

clean: ## remove what was made, the virtual environment too
	rm -rf .venv build dist *.egg-info .coverage* .*_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# -- the virtual environment: made once, brought up to date when setup.cfg changes

.venv/ready: setup.cfg | $(bin)/pip
	$(install) .
	@touch $@

.venv/ready-%: setup.cfg | $(bin)/pip
	$(install) '.[$*]'
	@touch $@ .venv/ready

$(bin)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ldapmfa needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=python3.12 names another"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) can't make virtual environments: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
