//go:build linux

package native

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/cgroup"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
)

// shape is everything about a sandbox that is fixed when it is booted: its bundle
// without what is of one run. A run can have a sandbox that waits if it has the same
// shape. It is not changed once it is made.
type shape struct {
	key    string
	engine *engine
	spec   *specs.Spec // without the names that a sandbox has by itself
	places []shim.Place
	limits cgroup.Limits
}

// claim is what a start has to know to take a sandbox that waits. It lies beside the
// bundle of the run.
type claim struct {
	Shape  string // its key
	Places []shim.Place
}

// readClaim reads what Create left; nil where the run cannot have a sandbox that
// waits.
func readClaim(path string) (*claim, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var c claim
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return nil, fmt.Errorf("read which sandbox could be used: %w", err)
	}
	return &c, nil
}

// shape returns that of the run whose bundle is s, or nil where no sandbox can wait
// for it.
func (p *plan) shape(s *specs.Spec) (*shape, error) {
	if p.engine.isolation != runtime.IsolationGVisor || p.ordinary() || !p.stages(s) {
		return nil, nil
	}
	own := p.ofRun()
	common := *s
	common.Mounts = slices.DeleteFunc(slices.Clone(s.Mounts), func(m specs.Mount) bool {
		return m.Destination == runtime.GuestSocket || slices.ContainsFunc(own, func(o ownPlace) bool { return o.target == m.Destination })
	})
	var pairs []string
	empty := make([]shim.Place, 0, len(own))
	for _, o := range own {
		pairs = append(pairs, o.Name+":"+o.target)
		empty = append(empty, shim.Place{Name: o.Name, Directory: o.Directory})
	}
	process := *s.Process
	process.Args = append(slices.Clone(process.Args), "--stage", runtime.StageDir, "--places", strings.Join(pairs, ","))
	// For the guest alone, and only until it has a run.
	capabilities := []string{"CAP_SYS_ADMIN", "CAP_SETPCAP"}
	process.Capabilities = &specs.LinuxCapabilities{
		Bounding: capabilities, Effective: capabilities, Inheritable: capabilities, Permitted: capabilities, Ambient: capabilities,
	}
	common.Process = &process
	linux := *s.Linux
	linux.CgroupsPath = ""
	common.Linux = &linux
	made := &shape{engine: p.engine, spec: &common, places: empty, limits: limitsOf(p.handle.Resources)}
	var err error
	made.key, err = made.sum()
	return made, err
}

// stages tells whether all that the run has of the host beside what every run has can
// be mounted once the sandbox is booted. What hides a part of the workspace cannot,
// because the workspace itself comes later; nor can what lies in, or around, something
// that is mounted at boot; nor what has a comma in its path, which the guest is told as one
// of a list.
func (p *plan) stages(s *specs.Spec) bool {
	if len(p.layout.Covers)+len(p.layout.Inside)+len(p.spec.Volumes) > 0 {
		return false
	}
	for _, wanted := range p.beside {
		if strings.Contains(wanted.target, ",") {
			return false
		}
		for _, m := range s.Mounts {
			itself := m.Destination == wanted.target && m.Source == wanted.Source
			if !itself && (isWithin(m.Destination, wanted.target) || isWithin(wanted.target, m.Destination)) {
				return false
			}
		}
	}
	return true
}

func isWithin(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

// ofRun lists what comes with the run, in the order of mounting.
func (p *plan) ofRun() []ownPlace { return append(p.own(), p.beside...) }

// sum names a shape by all that is in it. Of files and directories of the host it has
// their identity too: what takes the place of one is another.
func (s *shape) sum() (string, error) {
	sum := sha256.New()
	// The limits hold also where the bundle has none, without control groups.
	for _, part := range []any{s.spec, s.places, s.limits} {
		if err := json.NewEncoder(sum).Encode(part); err != nil {
			return "", fmt.Errorf("encode what a sandbox is like: %w", err)
		}
	}
	files := []string{s.engine.program, s.engine.shim, s.spec.Root.Path}
	for _, m := range s.spec.Mounts {
		if m.Type == "bind" {
			files = append(files, m.Source)
		}
	}
	for _, file := range files {
		var st unix.Stat_t
		if err := unix.Stat(file, &st); err != nil {
			return "", fmt.Errorf("look at %s: %w", file, err)
		}
		fmt.Fprintf(sum, "%q %d %d\n", file, st.Dev, st.Ino)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// places are what is of the run alone.
func (p *plan) places() []shim.Place {
	own := p.ofRun()
	all := make([]shim.Place, 0, len(own))
	for _, o := range own {
		all = append(all, o.Place)
	}
	return all
}

// bundle returns the configuration of the sandbox that waits in dir under the name id.
func (s *shape) bundle(id, dir string) *specs.Spec {
	spec := *s.spec
	stage := bind(stageOf(dir), runtime.StageDir, false)
	stage.Options = slices.Replace(stage.Options, 1, 2, "rslave") // what the run brings is to be seen
	spec.Mounts = append(slices.Clone(spec.Mounts), bind(shim.Socket(dir), runtime.GuestSocket, true), stage)
	if spec.Linux.Resources != nil {
		linux := *spec.Linux
		linux.CgroupsPath = shim.GroupName(id)
		spec.Linux = &linux
	}
	return &spec
}

func stageOf(dir string) string { return filepath.Join(dir, "stage") }

// make makes the files of a sandbox that waits in dir, which is new, and returns the
// job of its shim.
func (s *shape) make(dir string) (*shim.Job, error) {
	id, bundle := filepath.Base(dir), filepath.Join(dir, "bundle")
	for _, made := range []string{bundle, stageOf(dir)} {
		if err := os.Mkdir(made, 0o700); err != nil {
			return nil, err
		}
	}
	if err := host.WriteFile(filepath.Join(bundle, "config.json"), s.bundle(id, dir)); err != nil {
		return nil, err
	}
	job := s.engine.job(id, dir, bundle, s.limits)
	job.Stage, job.Places = stageOf(dir), s.places
	return job, nil
}

// limitsOf are those that a control group holds.
func limitsOf(r runtime.Resources) cgroup.Limits {
	return cgroup.Limits{MemoryBytes: r.MemoryBytes, CPUs: r.CPUs, Pids: r.PidsLimit}
}
