# The commands of the README. Each brings what it needs. With PG=16, 17 or 18: for that PostgreSQL.
PG ?= 15
export PG
SHELL := /bin/bash

.PHONY: demo test install bench lint clippy msrv package package-test upgrade-sql release-sql reference clean

demo: ## CREATE EXTENSION to a paid answer, with a real model, on a throw-away server
	@tools/demo.sh

test: ## every test
	@tools/test.sh

bench: ## figures, as ratios to what is measured in the same run
	@tools/bench.sh

install: ## into an existing server: make install PG_CONFIG=/path/to/pg_config
	@tools/install.sh "$(PG_CONFIG)"

lint: clippy ## formatting, clippy, shell scripts, and licences of crates
	@tools/lint.sh

clippy: ## formatting and clippy alone
	@source tools/setup.sh && cargo fmt --all --check && cargo clippy --workspace --all-targets --quiet --no-default-features --features "pg$(PG) pg_test" -- -D warnings

msrv: ## compiles with the oldest Rust that Cargo.toml names
	@tools/msrv.sh

package: ## .deb, tarball and source archive for PostgreSQL $(PG), into .build/dist
	@packaging/build.sh

package-test: ## makes the packages, installs, uses and removes the .deb
	@packaging/test.sh

upgrade-sql: ## writes sql/aggregator--LAST--THIS.sql, from the kept install script, today's, and sql/upgrades
	@tools/upgrade.sh

release-sql: ## keeps this version's install script, from which tests upgrade; REF=v0.1.0: that commit's
	@tools/release.sh $(REF)

reference: ## writes docs/reference from the catalogue, the settings, the options and the errors
	@tools/reference.sh

clean:
	cargo clean
	rm -rf .build
