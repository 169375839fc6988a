FROM debian:bookworm-slim
USER root
RUN --mount=type=cache,sharing=locked,id=drawbridge/var/cache/drawbridge-apt,target=/var/cache/drawbridge-apt set -eu; \
    mkdir -p /var/cache/drawbridge-apt/partial; \
    apt-get -o APT::Update::Error-Mode=any update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o Dir::Cache::Archives=/var/cache/drawbridge-apt ca-certificates curl unzip; \
    rm -rf /var/lib/apt/lists/*
COPY fetch /usr/local/lib/drawbridge/fetch
RUN set -eu; \
    /usr/local/lib/drawbridge/fetch https://dl.google.com/go/go1.26.5.linux-amd64.tar.gz sha256:5c2c3b16caefa1d968a94c1daca04a7ca301a496d9b086e17ad77bb81393f053 /tmp/drawbridge-download; \
    tar -xzf /tmp/drawbridge-download -C /usr/local --no-same-owner; \
    ln -s ../go/bin/go ../go/bin/gofmt /usr/local/bin/; \
    rm /tmp/drawbridge-download
RUN set -eu; \
    /usr/local/lib/drawbridge/fetch https://github.com/cli/cli/releases/download/v2.50.0/gh_2.50.0_linux_amd64.tar.gz list:https://github.com/cli/cli/releases/download/v2.50.0/gh_2.50.0_checksums.txt /tmp/drawbridge-download; \
    tar -xzOf /tmp/drawbridge-download gh_2.50.0_linux_amd64/bin/gh > /usr/local/bin/gh; \
    chmod 0755 /usr/local/bin/gh; \
    rm /tmp/drawbridge-download
RUN set -eu; \
    /usr/local/lib/drawbridge/fetch https://github.com/protocolbuffers/protobuf/releases/download/v33.2/protoc-33.2-linux-x86_64.zip sha256:b24b53f87c151bfd48b112fe4c3a6e6574e5198874f38036aff41df3456b8caf /tmp/drawbridge-download; \
    unzip -q /tmp/drawbridge-download 'bin/*' 'include/*' -d /usr/local; \
    chmod -R a+rX /usr/local/bin/protoc /usr/local/include; \
    rm /tmp/drawbridge-download
RUN set -eu; \
    /usr/local/lib/drawbridge/fetch https://github.com/BurntSushi/ripgrep/releases/download/14.1.1/ripgrep-14.1.1-x86_64-unknown-linux-musl.tar.gz sha256:4cf9f2741e6c465ffdb7c26f38056a59e2a2544b51f7cc128ef28337eeae4d8e /tmp/drawbridge-download; \
    tar -xzOf /tmp/drawbridge-download ripgrep-14.1.1-x86_64-unknown-linux-musl/rg > /usr/local/bin/rg; \
    chmod 0755 /usr/local/bin/rg; \
    rm /tmp/drawbridge-download
RUN --mount=type=cache,sharing=locked,id=drawbridge/root/go/pkg/mod,target=/root/go/pkg/mod --mount=type=cache,sharing=locked,id=drawbridge/root/.cache/go-build,target=/root/.cache/go-build set -eu; \
    GOBIN=/usr/local/bin GOFLAGS=-modcacherw go install golang.org/x/tools/gopls@v0.24.0
RUN set -eu; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/group || echo sandbox:x:1000: >> /etc/group; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/passwd || echo sandbox:x:1000:1000::/tmp:/bin/sh >> /etc/passwd
USER 1000:1000
WORKDIR /workspace
