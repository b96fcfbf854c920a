# A PostgreSQL image with the extension.
#   docker build --build-arg PG=17 .
#   docker build --build-arg BASE=supabase/postgres:TAG --build-arg PG=15 .
# It is built in the image that it will run in, so that the C library is the same.
ARG PG=17
ARG BASE=postgres:${PG}-bookworm

FROM rust:1.90-slim-bookworm AS rust

FROM ${BASE} AS build
ARG PG
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup PATH=/usr/local/cargo/bin:$PATH
WORKDIR /src
COPY . .
# Brings the compiler and PostgreSQL's headers.
RUN tools/install.sh "$(command -v pg_config)" \
    && mkdir /out \
    && cp --parents "$(pg_config --pkglibdir)/aggregator.so" "$(pg_config --sharedir)/extension/aggregator"* /out/ \
    && strip --strip-unneeded "/out$(pg_config --pkglibdir)/aggregator.so"

FROM ${BASE}
# Providers are reached over https only.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /
