package deps

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	diff "github.com/google/go-cmp/cmp"
)

const referencePath = "../../../docs/dependencies-of-runs.md"

func TestReferenceIsUpToDate(t *testing.T) {
	t.Parallel()
	got := referencePage()
	if *update {
		if err := os.WriteFile(referencePath, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(referencePath)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff.Diff(string(want), got); d != "" {
		t.Errorf("docs/dependencies-of-runs.md is stale; run: go test ./manager/spec/deps -run TestReference -update\n(-file +table):\n%s", d)
	}
}

const referenceHead = `# Dependencies of runs

<!-- Generated from the table of package deps by: go test ./manager/spec/deps -run TestReference -update. Do not edit. -->

What a run needs beyond its base image is a list of names, in any order, from which one image is
made: ` + "`dependencies` of `create_run` and of `moat.yaml`, and `run --dependency`" + `. Some of the names are
[services](services.md), which are containers beside the sandbox, and [Docker](docker-in-runs.md).

| written as | |
| --- | --- |
| ` + "`node`" + ` | a name of the tables below, in the default version |
| ` + "`node@22`, `gh@2.50.0`" + ` | a version. A part is enough for those that are listed; others must be complete, and are taken where the column says "and others" |
| ` + "`npm:PACKAGE`, `pip:PACKAGE`, `uv:PACKAGE`, `cargo:CRATE`, `go:MODULE`" + ` | any package of a registry, with ` + "`@VERSION`" + ` or in the newest version at the time of the build. ` + "`pip:`" + ` goes into one common environment, ` + "`uv:`" + ` is a program with an environment of its own |
| ` + "`docker:host`, `docker:dind`" + ` | [Docker](docker-in-runs.md) and its client: that of this machine, whose socket makes the run an owner of this machine, or an engine of the run's own |

What an entry needs is added by itself. Asking for one thing in two versions is an error. What is not in
the tables, and not a package of these registries, belongs into a base image of your own, which must be
one of Debian's family. The image belongs to root; the run, as always, does not run as root.

What is downloaded is checked before it is installed, with one exception that stands in its row (the
browsers of Playwright). **A pinned SHA-256** is in Drawbridge's source. **The SHA-256 that its vendor
publishes beside it** comes from the same place over TLS, and finds damage, not a vendor whose place was
taken over. Registries and Debian check what they have signed or listed.

Packages without a version, and those of Debian, are as new as the build: an image that was built stays
as it is, until ` + "`run --rebuild` or `rebuild` of `create_run`" + ` builds it again, with nothing from earlier builds but
directories of downloads and of Go's build cache. The image that it replaces is removed, where a run is made of it by a later ` + "`drawbridge images prune`" + `.

A build is not a run: the code that packages bring for their installation runs as root in a container of the
engine's BuildKit, which is less shut in than a sandbox. Agents need ` + "`drawbridge serve --allow build`" + ` for
images that are not there yet. Engines without BuildKit, which are those of other vendors, build none, and a
builder elsewhere (` + "`BUILDKIT_HOST`" + `) is not used.

## Hooks of a build

` + "`hooks.post_build_root` and `hooks.post_build` of `moat.yaml`" + ` are scripts for ` + "`sh -e`" + ` that run after everything else is
installed, the first as root, the second as an ordinary user. They see no workspace, and their text is part of what tells
images from each other. The home of ` + "`post_build`" + ` is copied into the home of each run, which is empty otherwise: at most
256 files of up to 1 MiB.

## What a build reaches

The steps of a build have no network. They have a proxy on loopback, behind which is a gate of the build, and no name
server: what does not speak to a proxy reaches nothing. The gate lets through to where the dependencies come from
(below, only those of what is asked for), and to what the network rules of the run name; with a permissive network to any
public host. It does not look into TLS, so that nothing has to trust it, and rules by method and path allow nothing
here. A limit of the server (` + "`--network-limit`" + `) holds for the rest, not for the hosts below.

A host that was refused is named in the error, as the rule that would allow it: give it to the run, for
instance because the base image has its packages from a mirror. ` + "`drawbridge images builds`" + ` lists the last fifty builds,
and ` + "`drawbridge images trace BUILD`" + ` shows what one requested.
`

// otherHosts are those of vendors that publish a few programs by themselves.
func otherHosts() []string {
	var hosts []string
	for _, e := range builtIn {
		if how, is := e.how.(archive); is {
			for _, host := range how.hosts() {
				if !slices.Contains(githubHosts, host) && !slices.Contains(hosts, host) {
					hosts = append(hosts, host)
				}
			}
		}
	}
	slices.Sort(hosts)
	return hosts
}

// referencePage writes the page about all that can be asked for.
func referencePage() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	for _, section := range []struct {
		kind  Type
		title string
	}{
		{TypeRuntime, "Languages"}, {TypeTool, "Programs of their vendors"}, {TypePackage, "Packages of Debian"},
		{TypeNPM, "Packages of npm"}, {TypeGo, "Programs built from Go modules"}, {TypePython, "Programs from PyPI"},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n| name | gives | versions, default first | needs | checked by |\n| --- | --- | --- | --- | --- |\n", section.title)
		for _, e := range ofKind(section.kind) {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", e.name, code(e.programs), versionsOf(e), code(e.requires), checkedBy(e))
		}
	}
	b.WriteString("\n## Hosts of builds\n\n| for | hosts |\n| --- | --- |\n")
	for _, row := range []struct {
		title string
		hosts []string
	}{
		{"every build, for packages of Debian and Ubuntu", debianHosts}, {"packages of npm", npmHosts}, {"Go modules", goHosts},
		{"packages from PyPI", pypiHosts}, {"crates", crateHosts}, {"releases on GitHub", githubHosts}, {"`python`", python{}.hosts()},
		{"`rust`", rustHosts}, {"`playwright`", builtIn["playwright"].how.(npm).from[:2]}, {"others, each for what comes from there", otherHosts()},
	} {
		fmt.Fprintf(&b, "| %s | %s |\n", row.title, code(row.hosts))
	}
	b.WriteString("\n## Several at once\n\n| name | stands for |\n| --- | --- |\n")
	for _, e := range ofKind(TypeMeta) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", e.name, code(e.requires))
	}
	writeServices(&b)
	return b.String()
}

// writeServices writes what is known of services.
func writeServices(b *strings.Builder) {
	b.WriteString("\n## Services\n\nContainers beside the sandbox; [services](services.md) says how they are used.\n\n")
	b.WriteString("| name | image | versions, default first | port | as user | memory | URL for the run | set in its container |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, e := range ofKind(TypeService) {
		s, _ := LookupService(e.name)
		const secret = "PASSWORD"
		env := s.ContainerEnv(nil, secret)
		var url string
		for _, v := range s.RunEnv(env) {
			if name, value, _ := strings.Cut(v, "="); name == s.Prefix()+"URL" {
				url = value
			}
		}
		var set []string
		for _, name := range slices.Sorted(maps.Keys(env)) {
			set = append(set, name+"="+env[name])
		}
		user := s.User
		if user == "" {
			user = "that of the image"
		}
		fmt.Fprintf(b, "| `%s` | `%s` | %s | %d | %s | %d MiB | `%s` | %s |\n", e.name, e.image, versionsOf(e), s.Port, user, s.MemoryBytes>>20, url, code(set))
	}
	b.WriteString("\nA service is ready when this succeeds in its container:\n\n| name | command | within |\n| --- | --- | --- |\n")
	for _, e := range ofKind(TypeService) {
		s, _ := LookupService(e.name)
		fmt.Fprintf(b, "| `%s` | `%s` | %v |\n", e.name, strings.Join(s.Ready, " "), s.ReadyWithin)
	}
}

func ofKind(kind Type) []*entry {
	var found []*entry
	for _, e := range builtIn {
		if e.kind == kind && e.name != dockerClient {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b *entry) int { return cmp.Compare(a.name, b.name) })
	return found
}

func code(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return "`" + strings.Join(words, "`, `") + "`"
}

func versionsOf(e *entry) string {
	text := strings.Join(append([]string{e.versions.fallback}, e.versions.known...), ", ")
	if text == "" {
		text = "that of the base image's system"
		if e.kind != TypePackage {
			text = "the newest"
		}
	}
	if e.versions.open != closed {
		text += ", and others"
	}
	return text
}

func checkedBy(e *entry) string {
	text := e.how.checked(e.versions.fallback)
	if how, is := e.how.(archive); is && how.list != "" && how.sums != nil {
		var pinned []string
		for _, version := range append([]string{e.versions.fallback}, e.versions.known...) {
			if how.sums[version] != nil {
				pinned = append(pinned, version)
			}
		}
		text += " (" + strings.Join(pinned, ", ") + "), or " + how.checked("")
	}
	return text
}
