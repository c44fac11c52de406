# syntax=docker/dockerfile:1
# Central and the store agent: two images from one build. `docker compose up` makes both; by hand:
#   docker build --target central     -t shelfstream-central     .
#   docker build --target store-agent -t shelfstream-store-agent .

FROM rust:1.95-slim-bookworm AS build
# SQLite, zstd, BLAKE3, ring (TLS) and jemalloc are compiled from source.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# The caches keep what was downloaded and compiled; they are no part of the image, hence the copy out.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    cargo build --profile dist --locked --package central --package store-agent \
    && mkdir /out \
    && cp target/dist/central target/dist/store-agent /out/

FROM debian:bookworm-slim AS base
# Databases live in /data. A new named volume takes over its owner.
RUN groupadd --gid 10001 shelfstream \
    && useradd --uid 10001 --gid 10001 --no-create-home --no-log-init --shell /usr/sbin/nologin shelfstream \
    && install --directory --owner=shelfstream --group=shelfstream --mode=0750 /data
WORKDIR /data
VOLUME /data
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
# Healthy is an answer of 200 to GET /ready, on the port that LISTEN ends with. bash speaks TCP, so that no HTTP client
# has to be in the image.
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${LISTEN##*:} && printf 'GET /ready HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r -t 3 _ status _ <&3 && [[ $status == 200 ]]"]
# The servers end in good order on it, within 7 s; to copy what a deleted database held they need more: --stop-timeout 600.
STOPSIGNAL SIGTERM

FROM base AS central
COPY --from=build /out/central /usr/local/bin/central
ENV LISTEN=0.0.0.0:8081 DATABASE_PATH=/data/central.db NO_COLOR=1
EXPOSE 8081
ENTRYPOINT ["/usr/local/bin/central"]
CMD ["serve"]

FROM base AS store-agent
COPY --from=build /out/store-agent /usr/local/bin/store-agent
# STORE_ID has no default: each store says which it is.
ENV LISTEN=0.0.0.0:8082 DATABASE_PATH=/data/store.db NO_COLOR=1
EXPOSE 8082
ENTRYPOINT ["/usr/local/bin/store-agent"]
CMD ["serve"]
