package deps

import (
	"fmt"
	"strings"
)

// download is where what is downloaded lies until it is installed.
const download = "/tmp/drawbridge-download"

// archive installs what a vendor publishes as a file for each architecture. {v} is
// the version, {arch} Go's name of the architecture, {target} the vendor's.
type archive struct {
	url     string
	targets map[string]string // by architecture; nil where {target} is not used
	sums    map[string]sums   // pinned, by version
	list    string            // URL of the checksums that the vendor publishes; may be empty
	// install are commands that put what lies at download into place.
	install []string
	page    string // for a person; empty is that of the releases on GitHub
}

// sums are SHA-256 checksums by architecture.
type sums map[string]string

func (m archive) fill(text, version, arch string) string {
	return strings.NewReplacer("{v}", version, "{arch}", arch, "{target}", m.targets[arch]).Replace(text)
}

// fetch returns the command that downloads and checks.
func (m archive) fetch(version, arch string) (string, error) {
	check := "list:" + m.fill(m.list, version, arch)
	if sum := m.sums[version][arch]; sum != "" {
		check = "sha256:" + sum
	}
	if check == "list:" || m.targets != nil && m.targets[arch] == "" {
		return "", fmt.Errorf("there is none for the architecture %s", arch)
	}
	return strings.Join([]string{fetchPath, quote(m.fill(m.url, version, arch)), quote(check), download}, " "), nil
}

func (m archive) layer(version, arch string) (layer, error) {
	fetch, err := m.fetch(version, arch)
	if err != nil {
		return layer{}, err
	}
	commands := []string{fetch}
	for _, command := range m.install {
		commands = append(commands, m.fill(command, version, arch))
	}
	return layer{commands: append(commands, "rm "+download)}, nil
}

func (m archive) checked(version string) string {
	if m.sums[version] != nil {
		return "a pinned SHA-256"
	}
	return "the SHA-256 that its vendor publishes beside it"
}

func (m archive) get(string) string {
	if m.page != "" {
		return "see " + m.page
	}
	page, _, _ := strings.Cut(m.url, "/download/")
	return "see " + page
}

// hosts are those of its URLs, and those that they are known to lead to.
func (m archive) hosts() []string {
	var hosts []string
	for _, text := range []string{m.url, m.list} {
		_, rest, _ := strings.Cut(text, "://")
		switch host, _, _ := strings.Cut(rest, "/"); host {
		case "":
		case "github.com":
			hosts = append(hosts, githubHosts...)
		case "dl.k8s.io":
			hosts = append(hosts, host, "cdn.dl.k8s.io")
		default:
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// What is downloaded is a program, or holds some. The last element of a member's
// path is the name that it gets.

func program(name string) []string {
	return []string{"install -m 0755 " + download + " /usr/local/bin/" + name}
}

func fromTar(members ...string) []string {
	var commands []string
	for _, member := range members {
		path := "/usr/local/bin/" + member[strings.LastIndex(member, "/")+1:]
		commands = append(commands, "tar -xzOf "+download+" "+member+" > "+path, "chmod 0755 "+path)
	}
	return commands
}

func fromZip(members ...string) []string {
	var commands []string
	for _, member := range members {
		path := "/usr/local/bin/" + member[strings.LastIndex(member, "/")+1:]
		commands = append(commands, "unzip -p "+download+" "+member+" > "+path, "chmod 0755 "+path)
	}
	return commands
}
