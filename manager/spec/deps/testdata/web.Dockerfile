FROM debian:bookworm-slim
USER root
RUN --mount=type=cache,sharing=locked,id=drawbridge/var/cache/drawbridge-apt,target=/var/cache/drawbridge-apt set -eu; \
    mkdir -p /var/cache/drawbridge-apt/partial; \
    apt-get -o APT::Update::Error-Mode=any update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o Dir::Cache::Archives=/var/cache/drawbridge-apt ca-certificates curl; \
    rm -rf /var/lib/apt/lists/*
COPY fetch /usr/local/lib/drawbridge/fetch
RUN set -eu; \
    /usr/local/lib/drawbridge/fetch https://nodejs.org/dist/v22.23.3/node-v22.23.3-linux-x64.tar.gz list:https://nodejs.org/dist/v22.23.3/SHASUMS256.txt /tmp/drawbridge-download; \
    tar -xzf /tmp/drawbridge-download -C /usr/local --strip-components=1 --no-same-owner; \
    rm /tmp/drawbridge-download
RUN set -eu; \
    npm install --global --no-audit --no-fund --no-update-notifier @scope/pkg@1.2.3; \
    rm -rf /root/.npm
ENV PLAYWRIGHT_BROWSERS_PATH=/opt/playwright
RUN set -eu; \
    npm install --global --no-audit --no-fund --no-update-notifier playwright@1.65.1; \
    apt-get -o APT::Update::Error-Mode=any update; \
    playwright install --with-deps chromium; \
    chmod -R a+rX /opt/playwright; \
    rm -rf /var/lib/apt/lists/*; \
    rm -rf /root/.npm
RUN set -eu; \
    npm install --global --no-audit --no-fund --no-update-notifier typescript@7.0.2; \
    rm -rf /root/.npm
RUN set -eu; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/group || echo sandbox:x:1000: >> /etc/group; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/passwd || echo sandbox:x:1000:1000::/tmp:/bin/sh >> /etc/passwd
USER 1000:1000
WORKDIR /workspace
