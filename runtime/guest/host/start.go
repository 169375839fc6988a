package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// Order is what a start has to know of the spec. It waits in a file that only the
// owner reads, from Create until the command runs, because the environment may
// hold what nobody else should see.
type Order struct {
	Command     []string
	Env         []string
	TTY         bool
	Interactive bool
	Rows, Cols  uint16
	Timeout     time.Duration
	Grace       time.Duration
	LogLimit    int64
	GateToken   string // empty where there is no gate
	Limits      string
}

// HomeDefaults are set unless a spec has them: the sandbox's list of users need
// not have the user that the command runs as.
var HomeDefaults = []string{"HOME=/tmp", "USER=sandbox"}

// NewOrder returns the order of a spec; image is the environment that its image
// sets.
func NewOrder(spec runtime.Spec, image []string) Order {
	o := Order{
		Command:     spec.Command,
		Env:         environment(image, spec.Env),
		TTY:         spec.TTY,
		Interactive: spec.Interactive || spec.TTY,
		Rows:        spec.Rows,
		Cols:        spec.Cols,
		Timeout:     spec.Timeout,
		Grace:       spec.Grace,
		LogLimit:    spec.LogLimit,
		Limits:      Limits(spec.Ulimits),
	}
	if spec.Gate != nil {
		o.GateToken = spec.Gate.Token
	}
	return o
}

// Limits returns those limits that the guest sets, as link.Start has them.
func Limits(all []runtime.Ulimit) string {
	var set []string
	for _, u := range all {
		if u.ByGuest() {
			set = append(set, fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
		}
	}
	return strings.Join(set, ",")
}

// ReadOrder reads what Create left for Start.
func ReadOrder(path string) (Order, error) {
	var o Order
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &o)
	}
	if err != nil {
		return Order{}, fmt.Errorf("read what to start: %w", err)
	}
	return o, nil
}

// Start returns what the guest is told.
func (o *Order) Start(opts runtime.StartOptions) link.Start {
	s := link.Start{
		Command:     o.Command,
		Env:         o.Env,
		Dir:         runtime.WorkspacePath,
		TTY:         o.TTY,
		Interactive: o.Interactive,
		Rows:        o.Rows,
		Cols:        o.Cols,
		WaitAttach:  opts.WaitAttach,
		Timeout:     o.Timeout,
		Grace:       o.Grace,
		LogLimit:    o.LogLimit,
		Limits:      o.Limits,
	}
	s.Secrets = opts.Secrets
	if opts.Rows != 0 && opts.Cols != 0 {
		s.Rows, s.Cols = opts.Rows, opts.Cols
	}
	if o.GateToken != "" {
		s.Gate, s.GateToken = runtime.GateSocket, o.GateToken
	}
	return s
}

// Meeting is everything that a guest is handed, on the host's side.
type Meeting struct {
	Rendezvous *link.Rendezvous
	Files      link.Files
}

// Prepare binds the guest's socket and the control socket of s, and opens its
// files. What an abandoned start left is replaced. The caller closes the meeting.
func (s *Sandbox) Prepare(socket string) (_ *Meeting, err error) {
	m := &Meeting{}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if err := errors.Join(RemoveIfThere(socket), RemoveIfThere(s.Control)); err != nil {
		return nil, err
	}
	if m.Files.Segments, err = logring.OpenSegments(s.Logs); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if m.Files.Status, err = os.OpenFile(s.Status, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("open the status file: %w", err)
	}
	if m.Rendezvous, err = link.Listen(socket); err != nil {
		return nil, err
	}
	m.Files.Control, err = link.ListenControl(s.Control)
	return m, err
}

// Close closes the host's ends. The guest has its own.
func (m *Meeting) Close() {
	if m.Rendezvous != nil {
		_ = m.Rendezvous.Close()
	}
	for _, file := range append([]*os.File{m.Files.Control, m.Files.Status}, m.Files.Segments...) {
		if file != nil {
			_ = file.Close()
		}
	}
}

// RemoveIfThere removes a file; nil if there is none.
func RemoveIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// WriteFile writes a file of JSON that only its owner reads, whole or not at all.
func WriteFile(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	fresh := path + ".new"
	if err := os.WriteFile(fresh, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(fresh))
	}
	return nil
}

// environment returns the whole environment of a command: the image's, then our
// defaults, then the spec's; the last of a name counts.
func environment(image, spec []string) []string {
	all := make([]string, 0, len(image)+len(HomeDefaults)+len(spec)+2)
	at := make(map[string]int)
	for _, list := range [][]string{{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, image, HomeDefaults, spec} {
		for _, pair := range list {
			name, _, _ := strings.Cut(pair, "=")
			if i, ok := at[name]; ok {
				all[i] = pair
				continue
			}
			at[name] = len(all)
			all = append(all, pair)
		}
	}
	return all
}
