FROM debian:bookworm-slim
USER root
RUN --mount=type=cache,sharing=locked,id=drawbridge/var/cache/drawbridge-apt,target=/var/cache/drawbridge-apt set -eu; \
    mkdir -p /var/cache/drawbridge-apt/partial; \
    apt-get -o APT::Update::Error-Mode=any update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o Dir::Cache::Archives=/var/cache/drawbridge-apt ca-certificates curl gcc libc6-dev; \
    rm -rf /var/lib/apt/lists/*
COPY fetch /usr/local/lib/drawbridge/fetch
ENV RUSTUP_HOME=/usr/local/rustup
RUN set -eu; \
    /usr/local/lib/drawbridge/fetch https://static.rust-lang.org/rustup/archive/1.28.2/x86_64-unknown-linux-gnu/rustup-init sha256:20a06e644b0d9bd2fbdbfd52d42540bdde820ea7df86e92e533c073da0cdd43c /tmp/drawbridge-download; \
    mv /tmp/drawbridge-download /tmp/rustup-init; \
    chmod 0755 /tmp/rustup-init; \
    CARGO_HOME=/usr/local/cargo /tmp/rustup-init -y --no-modify-path --profile minimal --component clippy --component rustfmt --default-toolchain 1.98.0; \
    rm /tmp/rustup-init; \
    ln -s /usr/local/cargo/bin/* /usr/local/bin/; \
    chmod -R a+rX /usr/local/rustup /usr/local/cargo
RUN set -eu; \
    CARGO_HOME=/usr/local/cargo cargo install --locked --root /usr/local just --version 1.40.0; \
    rm -rf /usr/local/cargo/registry
RUN set -eu; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/group || echo sandbox:x:1000: >> /etc/group; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/passwd || echo sandbox:x:1000:1000::/tmp:/bin/sh >> /etc/passwd
USER 1000:1000
WORKDIR /workspace
