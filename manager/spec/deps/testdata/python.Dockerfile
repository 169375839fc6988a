FROM debian:bookworm-slim
USER root
RUN --mount=type=cache,sharing=locked,id=drawbridge/var/cache/drawbridge-apt,target=/var/cache/drawbridge-apt set -eu; \
    mkdir -p /var/cache/drawbridge-apt/partial; \
    apt-get -o APT::Update::Error-Mode=any update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o Dir::Cache::Archives=/var/cache/drawbridge-apt ca-certificates curl; \
    rm -rf /var/lib/apt/lists/*
COPY fetch /usr/local/lib/drawbridge/fetch
RUN set -eu; \
    /usr/local/lib/drawbridge/fetch https://github.com/astral-sh/uv/releases/download/0.11.28/uv-x86_64-unknown-linux-musl.tar.gz sha256:f02146b371c35c287d860f003ece7345c86e358a3fd70a9b63700cd141ee7fb4 /tmp/drawbridge-download; \
    tar -xzOf /tmp/drawbridge-download uv-x86_64-unknown-linux-musl/uv > /usr/local/bin/uv; \
    chmod 0755 /usr/local/bin/uv; \
    tar -xzOf /tmp/drawbridge-download uv-x86_64-unknown-linux-musl/uvx > /usr/local/bin/uvx; \
    chmod 0755 /usr/local/bin/uvx; \
    rm /tmp/drawbridge-download
ENV PATH=/opt/venv/bin:$PATH
RUN set -eu; \
    UV_LINK_MODE=copy UV_PYTHON_INSTALL_BIN=0 UV_PYTHON_INSTALL_DIR=/opt/python uv python install 3.12; \
    UV_LINK_MODE=copy UV_PYTHON_INSTALL_BIN=0 UV_PYTHON_INSTALL_DIR=/opt/python uv venv --seed --python 3.12 /opt/venv; \
    chmod -R a+rX /opt/python /opt/venv; \
    rm -rf /root/.cache/uv
RUN set -eu; \
    UV_LINK_MODE=copy UV_PYTHON_INSTALL_BIN=0 UV_PYTHON_INSTALL_DIR=/opt/python UV_TOOL_DIR=/opt/uv-tools UV_TOOL_BIN_DIR=/usr/local/bin uv tool install --python /opt/venv/bin/python ruff==0.17.5; \
    chmod -R a+rX /opt/uv-tools; \
    rm -rf /root/.cache/uv
RUN set -eu; \
    UV_LINK_MODE=copy UV_PYTHON_INSTALL_BIN=0 UV_PYTHON_INSTALL_DIR=/opt/python uv pip install --python /opt/venv/bin/python requests rich==13.0.0; \
    chmod -R a+rX /opt/venv; \
    rm -rf /root/.cache/uv
RUN set -eu; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/group || echo sandbox:x:1000: >> /etc/group; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/passwd || echo sandbox:x:1000:1000::/tmp:/bin/sh >> /etc/passwd
USER 1000:1000
WORKDIR /workspace
