package manager

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// A service is among the dependencies of a run, and is part of its sandbox for the
// driver: made and removed with it, and found by the same labels. Here is what the
// two have to know of each other: a password that nobody has chosen, the variables
// that hold it, and that the command waits for servers that are ready.

const (
	passwordLength = 32
	passwordSigns  = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	// readyPause is between two looks whether a service is ready, and readyLook
	// bounds one.
	readyPause = time.Second
	readyLook  = 10 * time.Second
	// lastWords is how many lines of a service's log an error repeats.
	lastWords = 10
)

// ServiceState says how a service is doing.
type ServiceState string

// The states of services.
const (
	ServiceCreated ServiceState = "created" // with its run, not started
	ServiceStarted ServiceState = "started" // nobody has waited for it
	ServiceReady   ServiceState = "ready"   // it has said so
	ServiceExited  ServiceState = "exited"  // before its run
	ServiceStopped ServiceState = "stopped" // with its run
)

// Service is a server beside a run's sandbox, which only that reaches.
type Service struct {
	Name    string       `json:"name"` // its host name in the sandbox
	Image   string       `json:"image"`
	Address string       `json:"address"` // HOST:PORT, in the sandbox
	State   ServiceState `json:"state"`
	Note    string       `json:"note,omitempty"` // how it ended before its run
}

// serviceWish is a service that a new run asks for.
type serviceWish struct {
	deps.Service
	Env    map[string]string // that a project states
	NoWait bool              // the command does not wait until it is ready
	Models []string          `json:",omitempty"` // that are fetched for it
	isOwn  bool              // of the project's own
}

// serviceSpec is what is stored of a service of a run; nothing of it ever changes.
type serviceSpec struct {
	Name   string `json:"name"`
	Image  string `json:"image"`
	NoWait bool   `json:"no_wait,omitempty"`
	// Port and Ready are of a service of the project's own.
	Port  uint16   `json:"port,omitempty"`
	Ready []string `json:"ready,omitempty"`
}

// known returns what is known of the service; false if this program does not know it.
func (s *serviceSpec) known() (deps.Service, bool) {
	if s.Port != 0 {
		return deps.OwnService(s.Name, s.Image, s.Port, s.Ready), true
	}
	return deps.LookupService(s.Name)
}

// addOwnServices adds the services of a project's own to a plan.
func addOwnServices(plan *deps.Plan, settings map[string]config.Service) {
	if plan == nil {
		return
	}
	for name, s := range settings {
		if config.IsOwnService(name) {
			plan.Services = append(plan.Services, deps.OwnService(name, s.Image, uint16(s.Port), s.Ready))
		}
	}
	slices.SortFunc(plan.Services, func(a, b deps.Service) int { return strings.Compare(a.Name, b.Name) })
}

// serviceMeta is what changes of a service.
type serviceMeta struct {
	ID    string       `json:"id"` // the backend's
	State ServiceState `json:"state"`
	Note  string       `json:"note,omitempty"`
}

// permitServices refuses agents services that the person does not allow.
func (m *Manager) permitServices(opts Options) error {
	if !m.opts.ForAgents || slices.Contains(m.opts.Allow, config.AllowServices) {
		return nil
	}
	denied := func(what string) error {
		return failf(CodePolicyDenied, "leave "+what+" out, or ask the person who runs the server to start it with `drawbridge serve --allow services`",
			"agents are not allowed to start services, which are containers of images from a registry")
	}
	for _, d := range opts.Dependencies {
		name, _, _ := strings.Cut(d, "@")
		if s, is := deps.LookupService(name); is && !s.Engine {
			return denied(d)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(opts.Services)) {
		if config.IsOwnService(name) {
			return denied(name)
		}
	}
	return nil
}

// takeServices takes the settings of services.
func takeServices(o *Options, c *config.Config) error {
	settings := maps.Clone(c.Services)
	maps.Copy(settings, o.Services)
	o.Services = settings
	return nil
}

// unwanted returns the name of a service that has settings and is not in the plan.
func unwanted(plan *deps.Plan, settings map[string]config.Service) string {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if !slices.ContainsFunc(plan.Services, func(s deps.Service) bool { return s.Name == name }) {
			return name
		}
	}
	return ""
}

// dependencyOf is what a service is called among the dependencies.
func dependencyOf(service string) string {
	if service == deps.NameDocker {
		return string(dockerPermission(deps.DockerModeDind))
	}
	return service
}

// withServices returns the options with the services of a plan.
func (m *Manager) withServices(driver runtime.Runtime, plan *deps.Plan, opts Options) (Options, error) {
	if len(plan.Services) == 0 {
		return opts, nil
	}
	if _, can := driver.(runtime.ServiceRunner); !can {
		return opts, failf(CodeUnsupported, "use the docker runtime (`--runtime docker`), or leave "+plan.Services[0].Name+" out",
			"services need Docker, and the runtime %s puts none beside runs", driver.Type())
	}
	for _, s := range plan.Services {
		settings := opts.Services[s.Name]
		wish := serviceWish{Service: s, Env: settings.Env, NoWait: settings.Wait != nil && !*settings.Wait}
		if wish.Models = settings.Models; len(wish.Models) > 0 && s.Store == "" {
			return opts, failf(CodeInvalidArgument, "leave them out", "the service %s has no use for models", s.Name)
		}
		for name := range s.StoreEnv() {
			if _, stated := settings.Env[name]; stated && len(wish.Models) > 0 {
				return opts, failf(CodeInvalidArgument, "leave "+name+" out of its env, or name no models", "the service %s finds its models by %s", s.Name, name)
			}
		}
		if settings.Image != "" {
			wish.Image = settings.Image
		}
		if settings.Memory != 0 {
			wish.MemoryBytes = settings.Memory << 20
		}
		if wish.isOwn = config.IsOwnService(s.Name); wish.isOwn {
			wish.User, wish.Command = settings.User, settings.Command
		}
		opts.services = append(opts.services, wish)
	}
	return opts, nil
}

// serviceSpecs are the services of a run as they are stored.
func serviceSpecs(wishes []serviceWish) []serviceSpec {
	var all []serviceSpec
	for _, w := range wishes {
		s := serviceSpec{Name: w.Name, Image: w.Image, NoWait: w.NoWait}
		if w.isOwn {
			s.Port, s.Ready = w.Port, w.Ready
		}
		all = append(all, s)
	}
	return all
}

// serviceWorld makes the containers of services, each with a password of its own, and
// the variables of the sandbox that tell of them.
func (m *Manager) serviceWorld(wishes []serviceWish) ([]runtime.ServiceSpec, []string) {
	var specs []runtime.ServiceSpec
	var sandbox []string
	for _, w := range wishes {
		env := w.ContainerEnv(w.Env, newPassword())
		if len(w.Models) > 0 {
			maps.Copy(env, w.StoreEnv())
		}
		s := runtime.ServiceSpec{Name: w.Name, Image: w.Image, User: w.User, Command: w.Command, Port: w.Port, MemoryBytes: w.MemoryBytes, Engine: w.Engine}
		s.Probed = w.isOwn && len(w.Ready) == 0 && !w.NoWait
		for _, name := range slices.Sorted(maps.Keys(env)) {
			s.Env = append(s.Env, name+"="+env[name])
		}
		if len(w.Models) > 0 {
			s.User = m.storeUser()
			s.Mounts = []runtime.MountConfig{{Source: m.storeOf(w.Name), Target: w.Store, ReadOnly: true}}
		}
		specs = append(specs, s)
		sandbox = append(sandbox, w.RunEnv(env)...)
	}
	return specs, sandbox
}

// newPassword returns a password of letters and digits, which no URL, shell or
// configuration has to quote.
func newPassword() string {
	password := make([]byte, passwordLength)
	for i := range password {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(passwordSigns))))
		if err != nil {
			panic(fmt.Sprintf("read random numbers: %v", err)) // it cannot fail
		}
		password[i] = passwordSigns[n.Int64()]
	}
	return string(password)
}

// getServiceImages has the runtime get the images of services that it lacks.
func (m *Manager) getServiceImages(ctx context.Context, c *creation) error {
	images, has := c.driver.(runtime.ImageManager)
	if !has {
		return nil
	}
	for _, s := range c.spec.Services {
		_, err := images.Image(ctx, s.Image)
		if errors.Is(err, runtime.ErrImageMissing) {
			err = m.pullImage(ctx, images, c.opts, s.Image)
		}
		if err != nil {
			return wrapf(err, "get the image of the service %s", s.Name)
		}
	}
	return nil
}

// serviceMetas is what is stored of services that have just been made.
func serviceMetas(made runtime.Description) map[string]serviceMeta {
	all := make(map[string]serviceMeta, len(made.Services))
	for _, s := range made.Services {
		all[s.Name] = serviceMeta{ID: s.BackendID, State: ServiceCreated}
	}
	return all
}

// servicesOf fills in what callers learn of a run's services. Whether the containers
// are still there is told by the handle.
func (r *Run) servicesOf(row *storage.RunRow, sp *spec, mt *meta) {
	for _, s := range sp.Services {
		known, is := s.known()
		now := mt.Services[s.Name]
		if !is {
			continue // of another version of this program
		}
		r.Services = append(r.Services, Service{
			Name: s.Name, Image: s.Image, Address: fmt.Sprintf("%s:%d", s.Name, known.Port), State: now.State, Note: now.Note,
		})
		if row.Handle != nil && now.ID != "" {
			if r.ServiceContainers == nil {
				r.ServiceContainers = make(map[string]string)
			}
			r.ServiceContainers[s.Name] = now.ID
		}
	}
	if row.Handle != nil {
		r.NetworkID = mt.NetworkID
	}
}

// startServices starts the services of a run and waits until they are ready.
func (m *Manager) startServices(ctx context.Context, driver runtime.Runtime, row storage.RunRow) error {
	sp, err := decode[spec](row.Spec, "specification", row.ID)
	if err != nil || len(sp.Services) == 0 {
		return err
	}
	runner, can := driver.(runtime.ServiceRunner)
	if !can {
		return failf(CodeUnsupported, "start it with the program that created it", "the runtime %s runs no services", driver.Type())
	}
	if err := runner.StartServices(ctx, row.Handle); err != nil {
		return err
	}
	began := time.Now()
	failed := make([]error, len(sp.Services))
	var waiting sync.WaitGroup
	for i, s := range sp.Services {
		waiting.Go(func() { failed[i] = m.awaitService(ctx, runner, &row, s, began) })
	}
	waiting.Wait()
	return errors.Join(failed...)
}

// awaitService waits until one service is ready, and notes that.
func (m *Manager) awaitService(ctx context.Context, runner runtime.ServiceRunner, row *storage.RunRow, s serviceSpec, began time.Time) error {
	about, is := s.known()
	switch {
	case !is:
		return failf(CodeUnsupported, "start it with the program that created it", "this program does not know the service %s", s.Name)
	case s.NoWait:
		return m.noteService(ctx, row.ID, s.Name, ServiceStarted, "")
	}
	within := max(about.ReadyWithin, m.opts.serviceWait)
	ctx, cancel := context.WithDeadline(ctx, began.Add(within))
	defer cancel()
	for {
		ready, last := isReady(ctx, runner, row.Handle, about)
		if ready {
			return m.noteService(ctx, row.ID, s.Name, ServiceReady, "")
		}
		now, err := m.anyRow(ctx, row.ID)
		if err == nil && now.StopRequested {
			return errStopRequested
		}
		if ended := errors.Is(last, runtime.ErrConflict); ended || sleep(ctx, readyPause) != nil {
			return m.notReady(ctx, runner, row.Handle, s, within, ended, last)
		}
	}
}

// errStopRequested ends a start.
var errStopRequested = errors.New("the run was asked to stop before its services were ready")

// isReady looks once. The error says what the look came to where it is not.
func isReady(ctx context.Context, runner runtime.ServiceRunner, h runtime.Handle, s deps.Service) (bool, error) {
	look, cancel := context.WithTimeout(ctx, readyLook)
	defer cancel()
	command := s.Ready
	switch {
	case s.Engine:
		command = runtime.EngineReady
	case len(command) == 0:
		command = runtime.PortReady(s.Port)
	}
	code, output, err := runner.ExecService(look, h, s.Name, command)
	switch {
	case err != nil:
		return false, err
	case s.IsReady(code, output):
		return true, nil
	}
	return false, fmt.Errorf("%s: code %d, %q", command[0], code, strings.TrimSpace(output))
}

// notReady is the error of a service that did not get ready. It ends in what the
// service itself has said last.
func (m *Manager) notReady(ctx context.Context, runner runtime.ServiceRunner, h runtime.Handle, s serviceSpec, within time.Duration, ended bool, last error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyLook)
	defer cancel()
	said := "nothing"
	if lines, err := runner.ServiceLog(ctx, h, s.Name, lastWords); err == nil && len(lines) > 0 {
		said = "\n  " + strings.Join(lines, "\n  ")
	}
	what := fmt.Sprintf("was not ready within %v (%v)", within, last)
	if ended {
		what = "ended before it was ready"
	}
	return failf(CodeConflict, "mend its settings in services."+s.Name+" of moat.yaml, or set wait: false there and wait in the command",
		"the service %s, of the image %s, %s; it printed last: %s", s.Name, s.Image, what, said)
}

// noteService records how a service is doing.
func (m *Manager) noteService(ctx context.Context, id, name string, state ServiceState, note string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	_, err := m.store.ChangeRun(ctx, id, activeStates, func(row *storage.RunRow) {
		_ = changeMeta(row, func(mt *meta) {
			if s, is := mt.Services[name]; is {
				s.State, s.Note = state, note
				mt.Services[name] = s
			}
		})
	})
	if notActive(err) || errors.Is(err, storage.ErrNotFound) {
		return nil // there is no command any more that could use it
	}
	m.changes.announce()
	return wrapf(err, "record how the service %s is", name)
}

// watchServices notes the end of services that end before their run, until ctx ends.
func (m *Manager) watchServices(ctx context.Context, driver runtime.Runtime, row storage.RunRow) {
	sp, _, err := m.documents.of(&row)
	runner, can := driver.(runtime.ServiceRunner)
	if err != nil || !can {
		return
	}
	var watching sync.WaitGroup
	for _, s := range sp.Services {
		watching.Go(func() {
			exit, err := runner.WaitService(ctx, row.Handle, s.Name)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				m.log.Warn("a service is no longer watched", zap.String("run", row.ID), zap.String("service", s.Name), zap.Error(err))
				return
			}
			note := fmt.Sprintf("it exited with code %d", exit.Code)
			if exit.OOMKilled {
				note += ", for want of memory; raise services." + s.Name + ".memory in moat.yaml"
			}
			if err := m.noteService(ctx, row.ID, s.Name, ServiceExited, note); err != nil {
				m.log.Warn("the end of a service could not be recorded", zap.String("run", row.ID), zap.String("service", s.Name), zap.Error(err))
			}
		})
	}
	watching.Wait()
}

// stopServices ends the services of a run that has ended and whose sandbox is kept.
// Otherwise they go with the sandbox.
func (m *Manager) stopServices(ctx context.Context, id string) {
	row, err := m.anyRow(ctx, id)
	if err != nil {
		return
	}
	sp, _, err := m.documents.of(&row)
	if err != nil || len(sp.Services) == 0 || !row.Keep || row.Handle == nil {
		return
	}
	driver, err := m.drivers.get(runtime.Type(row.Runtime))
	if err == nil {
		if runner, can := driver.(runtime.ServiceRunner); can {
			err = runner.StopServices(ctx, row.Handle)
		}
	}
	if err != nil {
		m.log.Warn("services of an ended run were not stopped; they go with it", zap.String("run", row.ID), zap.Error(err))
	}
}

// endServices notes that services have ended with their run.
func (mt *meta) endServices() {
	for name, s := range mt.Services {
		if s.State != ServiceExited {
			s.State = ServiceStopped
			mt.Services[name] = s
		}
	}
}

// serviceNames are the host names of services, in their order.
func serviceNames(specs []runtime.ServiceSpec) []string {
	var names []string
	for _, s := range specs {
		names = append(names, s.Name)
	}
	return names
}
