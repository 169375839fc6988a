FROM debian:bookworm-slim
USER root
RUN --mount=type=cache,sharing=locked,id=drawbridge/var/cache/drawbridge-apt,target=/var/cache/drawbridge-apt set -eu; \
    mkdir -p /var/cache/drawbridge-apt/partial; \
    apt-get -o APT::Update::Error-Mode=any update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o Dir::Cache::Archives=/var/cache/drawbridge-apt 'git=1:2.39*' jq make postgresql-client-15; \
    rm -rf /var/lib/apt/lists/*
RUN set -eu; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/group || echo sandbox:x:1000: >> /etc/group; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/passwd || echo sandbox:x:1000:1000::/tmp:/bin/sh >> /etc/passwd
USER 1000:1000
WORKDIR /workspace
