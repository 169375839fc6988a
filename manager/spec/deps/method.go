package deps

import (
	"fmt"
	"slices"
	"strings"
)

// layer is what one item does to an image.
type layer struct {
	env      []string // NAME=VALUE, for these commands, the following layers and runs
	commands []string // of a shell, each of which must succeed
	// caches are directories that the next build may find again. What lies there
	// is checked when it is used, or no code of packages runs beside it: one
	// image's packages must not be able to spoil another image.
	caches []string
	// litter are directories that are filled on the way and of no use later.
	litter []string
}

// method is how a dependency is installed.
type method interface {
	// layer returns the commands for a version on an architecture.
	layer(version, arch string) (layer, error)
	// checked says how what is downloaded is known to be right, for a person.
	checked(version string) string
	// get says how a person gets it onto a machine.
	get(version string) string
	// hosts are where it comes from.
	hosts() []string
}

// Hosts of registries. Those of GitHub send downloads on to others.
var (
	debianHosts = []string{"deb.debian.org", "security.debian.org", "archive.ubuntu.com", "security.ubuntu.com", "ports.ubuntu.com"}
	npmHosts    = []string{"registry.npmjs.org"}
	goHosts     = []string{"proxy.golang.org", "sum.golang.org"}
	pypiHosts   = []string{"pypi.org", "files.pythonhosted.org"}
	crateHosts  = []string{"index.crates.io", "static.crates.io", "crates.io"}
	githubHosts = []string{"github.com", "objects.githubusercontent.com", "release-assets.githubusercontent.com"}
	rustHosts   = []string{"static.rust-lang.org"}
)

// debian installs packages of the system of the base image. All of a plan's are
// installed at once.
type debian struct {
	names []string // the first one has the version
	epoch string   // of its version, with the colon
	// versioned is the name of the first for a version, where that is part of
	// the name.
	versioned string
}

func (debian) layer(string, string) (layer, error) { return layer{}, nil }

func (debian) checked(string) string { return "the signature of the Debian archive" }

func (m debian) get(version string) string {
	return "apt-get install " + strings.Join(m.packages(version), " ")
}

func (debian) hosts() []string { return debianHosts }

// packages returns what apt-get is asked for.
func (m debian) packages(version string) []string {
	names := slices.Clone(m.names)
	switch {
	case version == "":
	case m.versioned != "":
		names[0] = fmt.Sprintf(m.versioned, version)
	default:
		names[0] += "=" + m.epoch + version + "*"
	}
	return names
}

// npm installs a package of npm for everybody.
type npm struct {
	name  string
	after []string // further commands
	from  []string // hosts that these need
	env   []string
}

func (m npm) layer(version, _ string) (layer, error) {
	return layer{
		env:      m.env,
		litter:   []string{"/root/.npm"},
		commands: append([]string{"npm install --global --no-audit --no-fund --no-update-notifier " + quote(at(m.name, "@", version))}, m.after...),
	}, nil
}

func (m npm) checked(string) string {
	if len(m.after) > 0 {
		return "the hash in the npm registry; what it downloads itself by TLS only"
	}
	return "the hash in the npm registry"
}

func (m npm) get(version string) string { return "npm install --global " + at(m.name, "@", version) }

func (m npm) hosts() []string { return slices.Concat(npmHosts, m.from) }

// goModule builds programs from a Go module.
type goModule struct {
	module string
	path   string // of the package below the module, with a slash before it; may be empty
}

func (m goModule) query(version string) string {
	if version == "" {
		return m.module + m.path + "@latest"
	}
	return m.module + m.path + "@v" + version
}

func (m goModule) layer(version, _ string) (layer, error) {
	return layer{
		caches:   []string{"/root/go/pkg/mod", "/root/.cache/go-build"},
		commands: []string{"GOBIN=/usr/local/bin GOFLAGS=-modcacherw go install " + quote(m.query(version))},
	}, nil
}

func (goModule) checked(string) string { return "the Go checksum database" }

func (m goModule) get(version string) string { return "go install " + m.query(version) }

func (goModule) hosts() []string { return goHosts }

// Where Python and its tools are.
const (
	pythonDir  = "/opt/python"
	pythonEnv  = "/opt/venv"
	toolDir    = "/opt/uv-tools"
	uvCache    = "/root/.cache/uv"
	uvSettings = "UV_LINK_MODE=copy UV_PYTHON_INSTALL_BIN=0 UV_PYTHON_INSTALL_DIR=" + pythonDir
)

// pythonTool installs a program from PyPI with an environment of its own.
type pythonTool struct{ name string }

func (m pythonTool) layer(version, _ string) (layer, error) {
	return layer{
		litter: []string{uvCache},
		commands: []string{
			uvSettings + " UV_TOOL_DIR=" + toolDir + " UV_TOOL_BIN_DIR=/usr/local/bin uv tool install --python " +
				pythonEnv + "/bin/python " + quote(at(m.name, "==", version)),
			"chmod -R a+rX " + toolDir,
		},
	}, nil
}

func (pythonTool) checked(string) string { return "the hash in the index of PyPI" }

func (m pythonTool) get(version string) string { return "uv tool install " + at(m.name, "==", version) }

func (pythonTool) hosts() []string { return pypiHosts }

// pip installs a package from PyPI into the common environment. All of a plan's are
// installed at once, so that they fit together.
type pip struct{ name string }

func (m pip) layer(string, string) (layer, error) { return layer{}, nil }

func (pip) checked(string) string { return "the hash in the index of PyPI" }

func (m pip) get(version string) string { return "pip install " + at(m.name, "==", version) }

func (pip) hosts() []string { return pypiHosts }

// python installs an interpreter with uv, and the common environment.
type python struct{}

func (python) layer(version, _ string) (layer, error) {
	return layer{
		env:    []string{"PATH=" + pythonEnv + "/bin:$PATH"},
		litter: []string{uvCache},
		commands: []string{
			uvSettings + " uv python install " + quote(version),
			uvSettings + " uv venv --seed --python " + quote(version) + " " + pythonEnv,
			"chmod -R a+rX " + pythonDir + " " + pythonEnv,
		},
	}, nil
}

func (python) checked(string) string { return "the list of hashes in uv" }

func (python) get(version string) string {
	return "apt-get install python3, or uv python install " + version
}

// uv asks a mirror of its vendor before GitHub.
func (python) hosts() []string {
	return slices.Concat(pypiHosts, githubHosts, []string{"releases.astral.sh"})
}

// crate builds programs from a crate.
type crate struct{ name string }

func (m crate) layer(version, _ string) (layer, error) {
	command := "CARGO_HOME=/usr/local/cargo cargo install --locked --root /usr/local " + quote(m.name)
	if version != "" {
		command += " --version " + quote(version)
	}
	return layer{litter: []string{"/usr/local/cargo/registry"}, commands: []string{command}}, nil
}

func (crate) checked(string) string {
	return "the hash in the index of crates.io, and the lock file of the crate"
}

func (m crate) get(version string) string {
	return "cargo install --locked " + at(m.name, "@", version)
}

func (crate) hosts() []string { return crateHosts }

// rust installs a toolchain with rustup.
type rust struct{ installer archive }

func (m rust) layer(version, arch string) (layer, error) {
	fetch, err := m.installer.fetch(rustupVersion, arch)
	if err != nil {
		return layer{}, err
	}
	return layer{
		// Cargo's own directory must be writable, and so is not set for runs.
		env: []string{"RUSTUP_HOME=/usr/local/rustup"},
		commands: []string{
			fetch,
			// It goes by its name.
			"mv " + download + " /tmp/rustup-init",
			"chmod 0755 /tmp/rustup-init",
			"CARGO_HOME=/usr/local/cargo /tmp/rustup-init -y --no-modify-path --profile minimal --component clippy --component rustfmt --default-toolchain " + quote(version),
			"rm /tmp/rustup-init",
			"ln -s /usr/local/cargo/bin/* /usr/local/bin/",
			"chmod -R a+rX /usr/local/rustup /usr/local/cargo",
		},
	}, nil
}

func (m rust) checked(string) string {
	return m.installer.checked(rustupVersion) + " for rustup, which checks the rest by the manifest of the release"
}

func (rust) get(version string) string {
	return "rustup toolchain install " + version + " (https://rustup.rs)"
}

func (rust) hosts() []string { return rustHosts }

// at joins a name and a version that may be empty.
func at(name, by, version string) string {
	if version == "" {
		return name
	}
	return name + by + version
}

// quote returns text as one word of a shell.
func quote(text string) string {
	if text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@=+,%", r)
	}) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
