package deps

// builtIn is the table of what can be asked for by name.
var builtIn = makeTable(append(append(languages, packages...), append(tools, groups...)...))

// notProvided says of names that people may expect why they are not in the table.
var notProvided = map[string]string{
	"gcloud": "its vendor publishes no file of checksums; install it in a base image of your own",
}

// dockerClient is what goes into the image of a run that has Docker.
const dockerClient = "docker-cli"

// rustupVersion is that of the installer of Rust's toolchains.
const rustupVersion = "1.28.2"

// languages are toolchains, and what their package managers are.
var languages = []*entry{
	{
		name: "node", kind: TypeRuntime, programs: []string{"node", "npm", "npx"},
		versions: versions{fallback: "24.18.0", known: []string{"26.10.0", "25.9.0", "22.23.3", "20.20.2", "18.20.8"}, open: complete},
		how: archive{
			url: "https://nodejs.org/dist/v{v}/node-v{v}-linux-{target}.tar.gz", targets: map[string]string{"amd64": "x64", "arm64": "arm64"},
			list: "https://nodejs.org/dist/v{v}/SHASUMS256.txt",
			sums: map[string]sums{
				"24.18.0": {
					"amd64": "783130984963db7ba9cbd01089eaf2c2efb055c7c1693c943174b967b3050cb8",
					"arm64": "6b4484c2190274175df9aa8f28e2d758a819cb1c1fe6ab481e2f95b463ab8508",
				},
				"26.10.0": {
					"amd64": "cb5c9ce9c80d7b8821e3a258543c71b939138cf17c74d5cc44bbe85d6dbc5ad8",
					"arm64": "423a41bff8e2a2fa15e702fefe2919ef95823b2378744daccb8439302534b44f",
				},
			},
			install: []string{"tar -xzf " + download + " -C /usr/local --strip-components=1 --no-same-owner"},
			page:    "https://nodejs.org/en/download",
		},
	},
	{
		name: "go", kind: TypeRuntime, programs: []string{"go", "gofmt"}, asks: []string{"version"},
		versions: versions{fallback: "1.26.5", known: []string{"1.25.9"}, open: complete},
		how: archive{
			url: "https://dl.google.com/go/go{v}.linux-{arch}.tar.gz", list: "https://dl.google.com/go/go{v}.linux-{arch}.tar.gz.sha256",
			sums: map[string]sums{
				"1.26.5": {
					"amd64": "5c2c3b16caefa1d968a94c1daca04a7ca301a496d9b086e17ad77bb81393f053",
					"arm64": "fe4789e92b1f33358680864bbe8704289e7bb5fc207d80623c308935bd696d49",
				},
				"1.25.9": {
					"amd64": "00859d7bd6defe8bf84d9db9e57b9a4467b2887c18cd93ae7460e713db774bc1",
					"arm64": "ec342e7389b7f489564ed5463c63b16cf8040023dabc7861256677165a8c0e2b",
				},
			},
			install: []string{"tar -xzf " + download + " -C /usr/local --no-same-owner", "ln -s ../go/bin/go ../go/bin/gofmt /usr/local/bin/"},
			page:    "https://go.dev/dl",
		},
	},
	{
		name: "python", kind: TypeRuntime, programs: []string{"python3"}, requires: []string{"uv"},
		versions: versions{fallback: "3.13", known: []string{"3.14", "3.12", "3.11", "3.10", "3.9"}, open: anything},
		how:      python{},
	},
	{
		name: "rust", kind: TypeRuntime, programs: []string{"rustc", "cargo"}, system: []string{"gcc", "libc6-dev"},
		versions: versions{fallback: "1.98.0", open: complete},
		how: rust{installer: archive{
			url:     "https://static.rust-lang.org/rustup/archive/{v}/{target}-unknown-linux-gnu/rustup-init",
			targets: map[string]string{"amd64": "x86_64", "arm64": "aarch64"},
			sums: map[string]sums{rustupVersion: {
				"amd64": "20a06e644b0d9bd2fbdbfd52d42540bdde820ea7df86e92e533c073da0cdd43c",
				"arm64": "e3853c5a252fca15252d07cb23a1bdd9377a8c6f3efa01531109281ae47f841c",
			}},
		}},
	},
	{
		name: "uv", kind: TypeRuntime, programs: []string{"uv", "uvx"},
		versions: versions{fallback: "0.11.28", open: complete},
		how: archive{
			url:     "https://github.com/astral-sh/uv/releases/download/{v}/uv-{target}-unknown-linux-musl.tar.gz",
			targets: map[string]string{"amd64": "x86_64", "arm64": "aarch64"},
			list:    "https://github.com/astral-sh/uv/releases/download/{v}/uv-{target}-unknown-linux-musl.tar.gz.sha256",
			sums: map[string]sums{"0.11.28": {
				"amd64": "f02146b371c35c287d860f003ece7345c86e358a3fd70a9b63700cd141ee7fb4",
				"arm64": "da10cdfa7d92212b7acb62021a0fd61bcf8580c58c3632ec915d10c3a1a7906b",
			}},
			install: fromTar("uv-{target}-unknown-linux-musl/uv", "uv-{target}-unknown-linux-musl/uvx"),
		},
	},
	{
		name: "bun", kind: TypeRuntime, programs: []string{"bun"}, system: []string{"unzip"},
		versions: versions{fallback: "1.3.14", open: complete},
		how: archive{
			// Without "-baseline" it needs a processor with AVX2.
			url:     "https://github.com/oven-sh/bun/releases/download/bun-v{v}/bun-linux-{target}.zip",
			targets: map[string]string{"amd64": "x64-baseline", "arm64": "aarch64"},
			list:    "https://github.com/oven-sh/bun/releases/download/bun-v{v}/SHASUMS256.txt",
			sums: map[string]sums{"1.3.14": {
				"amd64": "a063908ae08b7852ca10939bbdc6ceed3ddabce8fb9402dce83d65d73b36e6c7",
				"arm64": "a27ffb63a8310375836e0d6f668ae17fa8d8d18b88c37c821c65331973a19a3b",
			}},
			install: append(fromZip("bun-linux-{target}/bun"), "ln -s bun /usr/local/bin/bunx"),
		},
	},
}

// packages are those of registries that know their versions themselves.
var packages = []*entry{
	system("aws", debian{names: []string{"awscli"}}, "aws"),
	system("bats", debian{names: []string{"bats"}}, "bats"),
	system("curl", debian{names: []string{"curl"}}, "curl"),
	system(dockerClient, debian{names: []string{"docker.io"}}, "docker"),
	system("gcc", debian{names: []string{"gcc", "g++", "libc6-dev"}, epoch: "4:"}, "gcc"),
	system("git", debian{names: []string{"git"}, epoch: "1:"}, "git"),
	system("jq", debian{names: []string{"jq"}}, "jq"),
	system("make", debian{names: []string{"make"}}, "make"),
	fixed(system("mysql-client", debian{names: []string{"default-mysql-client"}}, "mysql")),
	system("psql", debian{names: []string{"postgresql-client"}, versioned: "postgresql-client-%s"}, "psql"),
	system("redis-cli", debian{names: []string{"redis-tools"}, epoch: "5:"}, "redis-cli"),
	system("sqlite3", debian{names: []string{"sqlite3"}}, "sqlite3"),

	fromNPM("claude-code", "2.1.332", "@anthropic-ai/claude-code", "claude"),
	fromNPM("codex-cli", "0.169.0", "@openai/codex", "codex"),
	fromNPM("copilot-cli", "1.0.102", "@github/copilot", "copilot"),
	fromNPM("gemini-cli", "0.61.0", "@google/gemini-cli", "gemini"),
	fromNPM("pi-cli", "1.5.2", "@earendil-works/pi-coding-agent", "pi"),
	fromNPM("graphite-cli", "1.8.6", "@withgraphite/graphite-cli", "gt"),
	fromNPM("eslint", "10.15.0", "eslint", "eslint"),
	fromNPM("npm", "11.21.2", "npm", "npm"),
	fromNPM("pnpm", "12.21.0", "pnpm", "pnpm"),
	fromNPM("prettier", "3.10.1", "prettier", "prettier"),
	fromNPM("protoc-gen-connect-es", "1.7.0", "@connectrpc/protoc-gen-connect-es", "protoc-gen-connect-es"),
	fromNPM("protoc-gen-es", "2.17.0", "@bufbuild/protoc-gen-es", "protoc-gen-es"),
	fromNPM("typescript", "7.0.2", "typescript", "tsc"),
	{
		name: "pyright", kind: TypeNPM, how: npm{name: "pyright"}, programs: []string{"pyright", "pyright-langserver"}, requires: []string{"node"},
		versions: versions{fallback: "1.1.414", open: anything},
	},
	fromNPM("yarn", "1.22.22", "yarn", "yarn"),
	{
		name: "playwright", kind: TypeNPM, programs: []string{"playwright"}, requires: []string{"node"},
		versions: versions{fallback: "1.65.1", open: anything},
		how: npm{
			name: "playwright", from: append([]string{"cdn.playwright.dev", "playwright.download.prss.microsoft.com"}, debianHosts...), env: []string{"PLAYWRIGHT_BROWSERS_PATH=/opt/playwright"},
			after: []string{"apt-get -o APT::Update::Error-Mode=any update", "playwright install --with-deps chromium", "chmod -R a+rX /opt/playwright", "rm -rf /var/lib/apt/lists/*"},
		},
	},

	fromGo("air", "1.67.4", "github.com/air-verse/air", ""),
	fromGo("gofumpt", "0.12.0", "mvdan.cc/gofumpt", ""),
	fromGo("gopls", "0.24.0", "golang.org/x/tools/gopls", ""),
	fromGo("govulncheck", "1.9.0", "golang.org/x/vuln", "/cmd/govulncheck"),
	fromGo("mockgen", "0.6.0", "go.uber.org/mock", "/mockgen"),
	fromGo("protoc-gen-connect-go", "1.21.1", "connectrpc.com/connect", "/cmd/protoc-gen-connect-go"),
	fromGo("protoc-gen-doc", "1.5.1", "github.com/pseudomuto/protoc-gen-doc", "/cmd/protoc-gen-doc"),
	fromGo("protoc-gen-go", "1.36.12", "google.golang.org/protobuf", "/cmd/protoc-gen-go"),
	fromGo("protoc-gen-go-grpc", "1.6.2", "google.golang.org/grpc/cmd/protoc-gen-go-grpc", ""),
	fromGo("protoc-gen-grpc-gateway", "2.33.0", "github.com/grpc-ecosystem/grpc-gateway/v2", "/protoc-gen-grpc-gateway"),
	fromGo("protoc-gen-grpc-gateway-ts", "", "github.com/grpc-ecosystem/protoc-gen-grpc-gateway-ts", ""),
	fromGo("protoc-gen-openapiv2", "2.33.0", "github.com/grpc-ecosystem/grpc-gateway/v2", "/protoc-gen-openapiv2"),
	fromGo("protoc-gen-validate", "1.3.3", "github.com/envoyproxy/protoc-gen-validate", ""),
	fromGo("yq", "4.53.6", "github.com/mikefarah/yq/v4", ""),

	fromPyPI("black", "26.10.1"),
	fromPyPI("mypy", "2.4.1"),
	fromPyPI("pytest", "9.2.0"),
	fromPyPI("ruff", "0.17.5"),
}

// groups are names for several others, and services (see service.go for how these are run).
var groups = []*entry{
	{name: "cli-essentials", kind: TypeMeta, requires: []string{"bat", "fd", "fzf", "jq", "ripgrep"}},
	{name: "go-extras", kind: TypeMeta, requires: []string{"gofumpt", "golangci-lint", "gopls", "govulncheck"}},
	{name: "k8s", kind: TypeMeta, requires: []string{"helm", "kubectl"}},
	{name: "node-dev", kind: TypeMeta, requires: []string{"eslint", "prettier", "typescript"}},
	{name: "protobuf", kind: TypeMeta, requires: []string{"protoc", "protoc-gen-go", "protoc-gen-go-grpc"}},
	{name: "protobuf-es", kind: TypeMeta, requires: []string{"protoc", "protoc-gen-connect-es", "protoc-gen-es"}},
	{name: "protobuf-grpc-gateway", kind: TypeMeta, requires: []string{"protoc", "protoc-gen-go", "protoc-gen-go-grpc", "protoc-gen-grpc-gateway", "protoc-gen-openapiv2"}},
	{name: "python-dev", kind: TypeMeta, requires: []string{"black", "mypy", "pytest", "ruff"}},

	{name: "ministack", kind: TypeService, image: "ministackorg/ministack", versions: versions{fallback: "1.3", open: anything}},
	{name: "mysql", kind: TypeService, image: "mysql", versions: versions{fallback: "8", known: []string{"9"}, open: anything}},
	{name: "ollama", kind: TypeService, image: "ollama/ollama", versions: versions{fallback: "0.18.1", open: anything}},
	{name: "postgres", kind: TypeService, image: "postgres", versions: versions{fallback: "17", known: []string{"16", "15"}, open: anything}},
	{name: "redis", kind: TypeService, image: "redis", versions: versions{fallback: "7", known: []string{"6"}, open: anything}},
}

func system(name string, how debian, program string) *entry {
	return &entry{name: name, kind: TypePackage, how: how, programs: []string{program}, versions: versions{open: anything}}
}

// fixed takes the choice of a version away: that of the package says nothing.
func fixed(e *entry) *entry {
	e.versions.open = closed
	return e
}

func fromNPM(name, version, pkg, program string) *entry {
	return &entry{
		name: name, kind: TypeNPM, how: npm{name: pkg}, programs: []string{program}, requires: []string{"node"},
		versions: versions{fallback: version, open: anything},
	}
}

func fromGo(name, version, module, path string) *entry {
	return &entry{
		name: name, kind: TypeGo, how: goModule{module: module, path: path}, programs: []string{programOf(module + path)}, requires: []string{"go"},
		versions: versions{fallback: version, open: anything},
	}
}

func fromPyPI(name, version string) *entry {
	return &entry{
		name: name, kind: TypePython, how: pythonTool{name: name}, programs: []string{name}, requires: []string{"python"},
		versions: versions{fallback: version, open: anything},
	}
}
