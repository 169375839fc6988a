FROM registry.example/base:1
USER root
RUN --mount=type=cache,sharing=locked,id=drawbridge/var/cache/drawbridge-apt,target=/var/cache/drawbridge-apt set -eu; \
    mkdir -p /var/cache/drawbridge-apt/partial; \
    apt-get -o APT::Update::Error-Mode=any update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o Dir::Cache::Archives=/var/cache/drawbridge-apt ca-certificates curl gcc jq libc6-dev; \
    rm -rf /var/lib/apt/lists/*
COPY fetch /usr/local/lib/drawbridge/fetch
RUN set -eu; \
    /usr/local/lib/drawbridge/fetch https://nodejs.org/dist/v24.18.0/node-v24.18.0-linux-arm64.tar.gz sha256:6b4484c2190274175df9aa8f28e2d758a819cb1c1fe6ab481e2f95b463ab8508 /tmp/drawbridge-download; \
    tar -xzf /tmp/drawbridge-download -C /usr/local --strip-components=1 --no-same-owner; \
    rm /tmp/drawbridge-download
ENV RUSTUP_HOME=/usr/local/rustup
RUN set -eu; \
    /usr/local/lib/drawbridge/fetch https://static.rust-lang.org/rustup/archive/1.28.2/aarch64-unknown-linux-gnu/rustup-init sha256:e3853c5a252fca15252d07cb23a1bdd9377a8c6f3efa01531109281ae47f841c /tmp/drawbridge-download; \
    mv /tmp/drawbridge-download /tmp/rustup-init; \
    chmod 0755 /tmp/rustup-init; \
    CARGO_HOME=/usr/local/cargo /tmp/rustup-init -y --no-modify-path --profile minimal --component clippy --component rustfmt --default-toolchain 1.98.0; \
    rm /tmp/rustup-init; \
    ln -s /usr/local/cargo/bin/* /usr/local/bin/; \
    chmod -R a+rX /usr/local/rustup /usr/local/cargo
RUN set -eu; \
    CARGO_HOME=/usr/local/cargo cargo install --locked --root /usr/local just; \
    rm -rf /usr/local/cargo/registry
RUN set -eu; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/group || echo sandbox:x:1000: >> /etc/group; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/passwd || echo sandbox:x:1000:1000::/tmp:/bin/sh >> /etc/passwd
USER 1000:1000
WORKDIR /workspace
