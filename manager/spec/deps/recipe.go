package deps

import (
	"crypto/sha256"
	_ "embed" // the script that downloads
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// fetchScript downloads and checks, in the image that is being built.
//
//go:embed fetch.sh
var fetchScript []byte

// fetchPath is where it is in the image.
const fetchPath = "/usr/local/lib/drawbridge/fetch"

// sandboxUser is the user of a run whose workspace belongs to root, and whom the
// image names as its own. A run's real user is that of its workspace.
const sandboxUser = "1000"

// Target is what a recipe is written for.
type Target struct {
	Base string // the image that it begins from; one of Debian's family
	Arch string // of the image, as Go names it
	// RunFlags and Shell are what the builder wants of each RUN, so that its commands
	// have a way out; empty where they need none.
	RunFlags string
	Shell    []string
}

// Hooks are a project's own steps at the end of a build, scripts for a shell. They
// see no workspace.
type Hooks struct {
	Root string // run by root
	User string // run by the image's user
}

// File is one file of the context of a build.
type File struct {
	Name string
	Mode fs.FileMode
	Data []byte
}

// Recipe is all that an image is built from: a file "Dockerfile" and its context.
type Recipe struct {
	Target Target
	Files  []File
}

// Dockerfile returns the instructions.
func (r *Recipe) Dockerfile() string { return string(r.Files[0].Data) }

// repository is the name of all images that are built for runs.
const repository = "drawbridge/run"

// Tag returns the name and tag of the image: the same for the same recipe on the
// same base, whose ID is baseID, and another as soon as a byte of them differs.
func (r *Recipe) Tag(baseID string) string {
	sum := sha256.New()
	put := func(text string) { fmt.Fprintf(sum, "%d:%s,", len(text), text) }
	put(baseID)
	put(r.Target.Arch)
	for _, f := range r.Files {
		put(f.Name)
		put(f.Mode.String())
		put(string(f.Data))
	}
	return repository + ":" + hex.EncodeToString(sum.Sum(nil)[:16])
}

// Empty tells that the plan asks nothing of an image.
func (p *Plan) Empty() bool { return len(p.Items) == 0 }

// Recipe writes the recipe of an image that has all of the plan's items, and what the
// hooks make of it.
func (p *Plan) Recipe(target Target, hooks Hooks) (*Recipe, error) {
	if _, err := reference.ParseNormalizedNamed(target.Base); err != nil {
		return nil, fmt.Errorf("write the recipe of an image: use %q as its base: %w; name an image such as debian:bookworm-slim", target.Base, err)
	}
	w := writer{target: target}
	w.line("FROM " + target.Base)
	w.line("USER root")
	if len(target.Shell) > 0 {
		w.shell(target.Shell)
	}
	w.system(p.Items)
	if fetches(p.Items) {
		w.line("COPY fetch " + fetchPath)
		w.files = append(w.files, File{Name: "fetch", Mode: 0o755, Data: fetchScript})
	}
	pips := false
	for i := range p.Items {
		item := &p.Items[i]
		if _, is := item.entry.how.(pip); is {
			pips = true
			continue
		}
		l, err := item.entry.how.layer(item.Version, target.Arch)
		if err != nil {
			return nil, fmt.Errorf("write the recipe of an image with %s: %w", item.Dependency, err)
		}
		w.layer(l)
	}
	if pips {
		w.layer(pipLayer(p.Items))
	}
	w.layer(layer{commands: []string{
		"grep -q '^[^:]*:[^:]*:" + sandboxUser + ":' /etc/group || echo sandbox:x:" + sandboxUser + ": >> /etc/group",
		"grep -q '^[^:]*:[^:]*:" + sandboxUser + ":' /etc/passwd || echo sandbox:x:" + sandboxUser + ":" + sandboxUser + "::/tmp:/bin/sh >> /etc/passwd",
	}})
	w.hook("post_build_root", hooks.Root, "")
	if hooks.User != "" {
		w.line("RUN " + w.runFlags() + "mkdir -p " + homeDir + " && chown " + sandboxUser + ":" + sandboxUser + " " + homeDir)
	}
	w.line("USER " + sandboxUser + ":" + sandboxUser)
	w.hook("post_build", hooks.User, homeDir)
	if len(target.Shell) > 0 {
		w.shell([]string{"/bin/sh", "-c"}) // that of images which say nothing
	}
	w.line("WORKDIR /workspace")
	dockerfile := File{Name: "Dockerfile", Mode: 0o644, Data: []byte(w.text.String())}
	return &Recipe{Target: target, Files: append([]File{dockerfile}, w.files...)}, nil
}

// writer writes a Dockerfile.
type writer struct {
	target Target
	text   strings.Builder
	files  []File
}

func (w *writer) line(text string) { w.text.WriteString(text + "\n") }

// shell says what runs the commands from here on.
func (w *writer) shell(words []string) {
	quoted, _ := json.Marshal(words) // of strings it cannot fail
	w.line("SHELL " + string(quoted))
}

// hook writes a script as a step. It comes as a file of the context, so that nothing
// in it can become an instruction of the recipe. What it leaves in home, if that is
// not empty, has to be what the guest copies into the homes of runs.
func (w *writer) hook(name, script, home string) {
	if script == "" {
		return
	}
	w.files = append(w.files, File{Name: name, Mode: 0o755, Data: []byte(script + "\n")})
	commands := []string{"set -eu", "cd /"}
	if home != "" {
		commands = append(commands, "export HOME="+home)
	}
	commands = append(commands, "sh -e "+hookDir+name)
	if home != "" {
		commands = append(commands, "chmod -R a+rX "+home,
			`test "$(find `+home+` | wc -l)" -le 256 || { echo '`+name+` leaves more than 256 files in its home' >&2; exit 1; }`,
			`test -z "$(find `+home+` -type f -size +1024k)" || { echo '`+name+` leaves a file of more than 1 MiB in its home' >&2; exit 1; }`)
	}
	w.text.WriteString("RUN --mount=type=bind,source=" + name + ",target=" + hookDir + name + " " + w.runFlags())
	w.line(strings.Join(commands, "; \\\n    "))
}

// homeDir is what the home of runs begins with; package guest copies it. Their own home
// is empty otherwise.
const homeDir = "/usr/local/lib/drawbridge/home"

// hookDir is where the scripts of hooks are while they run; it is in no layer.
const hookDir = "/dev/drawbridge-hooks/"

func (w *writer) runFlags() string {
	if w.target.RunFlags == "" {
		return ""
	}
	return w.target.RunFlags + " "
}

// layer writes what an item does to the image, as one RUN.
func (w *writer) layer(l layer) {
	for _, env := range l.env {
		w.line("ENV " + env)
	}
	if len(l.commands) == 0 {
		return
	}
	w.text.WriteString("RUN " + w.runFlags())
	for _, dir := range l.caches {
		// The name keeps it apart from those of other people's builds.
		w.text.WriteString("--mount=type=cache,sharing=locked,id=drawbridge" + dir + ",target=" + dir + " ")
	}
	// The first command that fails ends the step.
	commands := append([]string{"set -eu"}, l.commands...)
	if len(l.litter) > 0 {
		commands = append(commands, "rm -rf "+strings.Join(l.litter, " "))
	}
	w.line(strings.Join(commands, "; \\\n    "))
}

// aptDir holds downloaded packages. The usual place is emptied after each
// installation in Debian's own images.
const aptDir = "/var/cache/drawbridge-apt"

// system writes the installation of all packages of the base image's system.
func (w *writer) system(items []Item) {
	var names []string
	if fetches(items) {
		names = append(names, "ca-certificates", "curl")
	}
	for i := range items {
		names = append(names, items[i].entry.system...)
		if how, is := items[i].entry.how.(debian); is {
			names = append(names, how.packages(items[i].Version)...)
		}
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	names = slices.Compact(names)
	// A package with a version makes the same one without needless.
	names = slices.DeleteFunc(names, func(name string) bool {
		return slices.ContainsFunc(names, func(other string) bool { return strings.HasPrefix(other, name+"=") })
	})
	for i, name := range names {
		names[i] = quote(name)
	}
	w.layer(layer{caches: []string{aptDir}, commands: []string{
		"mkdir -p " + aptDir + "/partial",
		"apt-get -o APT::Update::Error-Mode=any update",
		"DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o Dir::Cache::Archives=" + aptDir + " " + strings.Join(names, " "),
		"rm -rf /var/lib/apt/lists/*",
	}})
}

// fetches tells whether anything of the plan comes from elsewhere than the base
// image's system.
func fetches(items []Item) bool {
	return slices.ContainsFunc(items, func(item Item) bool {
		_, is := item.entry.how.(debian)
		return !is
	})
}

// pipLayer installs all packages of the common environment at once.
func pipLayer(items []Item) layer {
	var names []string
	for i := range items {
		if how, is := items[i].entry.how.(pip); is {
			names = append(names, quote(at(how.name, "==", items[i].Version)))
		}
	}
	return layer{litter: []string{uvCache}, commands: []string{
		uvSettings + " uv pip install --python " + pythonEnv + "/bin/python " + strings.Join(names, " "),
		"chmod -R a+rX " + pythonEnv,
	}}
}
