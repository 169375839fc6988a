package docker

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/mount"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func nestPlan(change func(*plan)) (*plan, *runtime.ServiceSpec) {
	p := testPlan(func(p *plan) {
		p.network, p.runc, p.how.runtime, p.how.isolation = testNetwork, "runc", "runsc", runtime.IsolationGVisor
		p.spec.Services = []runtime.ServiceSpec{{Name: "docker", Image: "docker:27-dind", Port: 2375, MemoryBytes: 1 << 30, Env: []string{"A=b"}, Engine: true}}
		change(p)
	})
	return p, &p.spec.Services[0]
}

func nested(p *plan, s *runtime.ServiceSpec) newContainer {
	c := newContainer{config: serviceConfig(p, s), host: serviceHostConfig(p, s, "{}")}
	c.nest(p, s, p.network.serviceAddress(0), "{}")
	return c
}

func TestEnginesOfRunsAreNotPrivileged(t *testing.T) {
	t.Parallel()
	p, s := nestPlan(unchanged)
	h := nested(p, s).host
	if h.Privileged || !slices.Equal(h.CapDrop, []string{"ALL"}) || !slices.Equal(h.CapAdd, []string{"CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"}) || len(h.Devices) > 0 {
		t.Errorf("it may do more: %+v", h)
	}
	if !h.ReadonlyRootfs || h.Runtime != "runc" || !slices.Equal(h.SecurityOpt, []string{"seccomp={}", "apparmor=unconfined"}) {
		t.Errorf("it is made by %q with a root that is read-only: %v, and %q", h.Runtime, h.ReadonlyRootfs, h.SecurityOpt)
	}
	if h.CgroupnsMode != "private" || h.IpcMode != "private" || h.PidMode != "" || h.NetworkMode != "network" || h.RestartPolicy.Name != "no" || len(h.PortBindings) > 0 {
		t.Errorf("name spaces: cgroup %q, ipc %q, pid %q, network %q", h.CgroupnsMode, h.IpcMode, h.PidMode, h.NetworkMode)
	}
	if h.Memory != 1<<30 || h.MemorySwap != h.Memory || h.NanoCPUs != serviceCPUs*1e9 || *h.PidsLimit != servicePids {
		t.Errorf("resources %+v", h.Resources)
	}
	// An empty list is sent, which the engine tells from none.
	if h.MaskedPaths == nil || len(h.MaskedPaths) > 0 || h.ReadonlyPaths == nil || len(h.ReadonlyPaths) > 0 {
		t.Errorf("paths of /proc: %v, %v", h.MaskedPaths, h.ReadonlyPaths)
	}
	for _, m := range h.Mounts {
		if m.Type == mount.TypeBind && !m.ReadOnly || m.Type == mount.TypeVolume && (m.Source != "" || m.VolumeOptions.Labels[runtime.LabelRun] != p.spec.ID) {
			t.Errorf("it has %+v", m)
		}
	}
}

func TestEnginesOfRunsHaveTheGateOrNoWayOut(t *testing.T) {
	t.Parallel()
	p, s := nestPlan(unchanged)
	c := nested(p, s)
	if text := strings.Join(c.config.Env, " "); strings.Contains(text, "PROXY") || strings.Contains(strings.Join(c.config.Entrypoint, " "), "gate") || len(c.host.Mounts) != 2 {
		t.Errorf("without a gate it has %s, is run by %q and sees %+v", text, c.config.Entrypoint, c.host.Mounts)
	}
	p, s = nestPlan(func(p *plan) { p.spec.Gate = &runtime.Gate{Dir: "/runs/x/gate", Token: "of-the-run"} })
	c = nested(p, s)
	want := []string{runtime.GuestPath, "nest", "--listen", "198.18.7.20:2375", "--socket", runtime.EngineSocket, "--gate", runtime.GateSocket}
	if !slices.Equal(c.config.Entrypoint, want) || c.config.User != "0:0" {
		t.Errorf("it is run by %q as %q", c.config.Entrypoint, c.config.User)
	}
	if arguments := strings.Join(slices.Concat([]string(c.config.Entrypoint), c.config.Cmd), " "); strings.Contains(arguments, "of-the-run") || !slices.Contains(c.config.Env, "HTTPS_PROXY=http://"+runtime.GateAddress) {
		t.Errorf("its arguments are %s, its variables %q", arguments, c.config.Env)
	}
}

func TestEnginesOfRunsAreRefusedWhereTheyWouldBeLess(t *testing.T) {
	t.Parallel()
	yes := true
	here, elsewhere := &facts{sameKernel: true}, &facts{}
	_, s := nestPlan(unchanged)
	with, without := runtime.Spec{Services: []runtime.ServiceSpec{*s}}, runtime.Spec{}
	for name, test := range map[string]struct {
		sandbox *bool
		facts   *facts
		spec    runtime.Spec
		says    string
	}{
		"here": {nil, here, with, ""}, "elsewhere": {nil, elsewhere, with, "use an engine that runs here"},
		"gVisor required": {&yes, here, with, "do without --sandbox require"}, "none is asked for": {&yes, elsewhere, without, ""},
	} {
		d := &Driver{options: Options{Sandbox: test.sandbox}}
		err := d.canNest(test.facts, test.spec)
		if (err != nil) != (test.says != "") || err != nil && (!errors.Is(err, runtime.ErrUnsupported) || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
	}
}

func TestEngineSocketIsThatOfAnEngineThatASandboxCanUse(t *testing.T) {
	t.Parallel()
	runc, gvisor := chosen{isolation: runtime.IsolationRunc}, chosen{isolation: runtime.IsolationGVisor}
	const socket = "unix:///run/docker.sock"
	for name, test := range map[string]struct {
		facts *facts
		how   chosen
		host  string
		want  string
		mend  string
	}{
		"here":                          {&facts{sameKernel: true}, runc, socket, "/run/docker.sock", ""},
		"in a virtual machine":          {&facts{virtual: true}, runc, socket, "", "outside of a virtual machine"},
		"by TCP":                        {&facts{}, runc, "tcp://10.0.0.1:2375", "", "listens at a Unix socket"},
		"SELinux":                       {&facts{sameKernel: true, relabels: true}, runc, socket, "", "without SELinux"},
		"gVisor that passes sockets":    {&facts{sameKernel: true, sockets: true}, gvisor, socket, "/run/docker.sock", ""},
		"gVisor that does not pass any": {&facts{sameKernel: true, runsc: "runsc"}, gvisor, socket, "", "--host-uds=open"},
	} {
		if path, mend := engineSocket(test.facts, test.how, test.host); path != test.want || (mend == "") != (test.mend == "") || !strings.Contains(mend, test.mend) {
			t.Errorf("%s: %q, %q; want %q, %q", name, path, mend, test.want, test.mend)
		}
	}
}

func TestFurtherGroupsAreThoseOfTheSpec(t *testing.T) {
	t.Parallel()
	for _, groups := range [][]string{nil, {"999"}} {
		h, err := testPlan(func(p *plan) { p.spec.Groups = groups }).hostConfig()
		if err != nil || !slices.Equal(h.GroupAdd, groups) {
			t.Errorf("groups %q, %v; want %q", h.GroupAdd, err, groups)
		}
	}
}
