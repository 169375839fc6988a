FROM debian:bookworm-slim
USER root
RUN --mount=type=cache,sharing=locked,id=drawbridge/var/cache/drawbridge-apt,target=/var/cache/drawbridge-apt set -eu; \
    mkdir -p /var/cache/drawbridge-apt/partial; \
    apt-get -o APT::Update::Error-Mode=any update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o Dir::Cache::Archives=/var/cache/drawbridge-apt ca-certificates curl docker.io git; \
    rm -rf /var/lib/apt/lists/*
COPY fetch /usr/local/lib/drawbridge/fetch
RUN set -eu; \
    /usr/local/lib/drawbridge/fetch https://nodejs.org/dist/v24.18.0/node-v24.18.0-linux-x64.tar.gz sha256:783130984963db7ba9cbd01089eaf2c2efb055c7c1693c943174b967b3050cb8 /tmp/drawbridge-download; \
    tar -xzf /tmp/drawbridge-download -C /usr/local --strip-components=1 --no-same-owner; \
    rm /tmp/drawbridge-download
RUN set -eu; \
    npm install --global --no-audit --no-fund --no-update-notifier @anthropic-ai/claude-code@2.1.332; \
    rm -rf /root/.npm
RUN set -eu; \
    npm install --global --no-audit --no-fund --no-update-notifier @openai/codex@0.150.0; \
    rm -rf /root/.npm
RUN set -eu; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/group || echo sandbox:x:1000: >> /etc/group; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/passwd || echo sandbox:x:1000:1000::/tmp:/bin/sh >> /etc/passwd
USER 1000:1000
WORKDIR /workspace
