package docker

import (
	"errors"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/system"
	"github.com/docker/go-connections/nat"
	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
)

func testPlan(change func(*plan)) *plan {
	p := &plan{
		spec: runtime.Spec{
			ID: "run_0123456789ab", Home: "home", Dir: "/runs/x", LogDir: "/runs/x/logs", Image: "image",
			Command: []string{"agent", "--token", "of-the-command"}, Env: []string{"SECRET=of-the-run"}, Workspace: "/work", Network: runtime.NetworkNone,
			Labels: map[string]string{"more": "label", runtime.LabelRun: "forged"},
		},
		how:       chosen{isolation: runtime.IsolationRunc, mode: modeDirect},
		user:      confine.Owner{UID: 7, GID: 8},
		guest:     "/lib/guest",
		openFiles: runtime.OpenFiles,
	}
	change(p)
	return p
}

func unchanged(*plan) {}

var testNetwork = &ownNetwork{ID: "network", Subnet: netip.MustParsePrefix("198.18.7.16/28"), Relay: "relay"}

func TestHostConfigHardensEverySandbox(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*plan){
		"direct":       unchanged,
		"engine":       func(p *plan) { p.how.mode = modeEngine },
		"open network": func(p *plan) { p.spec.Network = runtime.NetworkOpen },
		"own network":  func(p *plan) { p.network = testNetwork },
		"root's workspace": func(p *plan) {
			p.user = confine.Owner{UID: confine.SandboxID, GID: confine.SandboxID, Mapped: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := testPlan(change)
			h, err := p.hostConfig()
			if err != nil {
				t.Fatal(err)
			}
			if h.Privileged || len(h.CapAdd) > 0 || !slices.Equal(h.CapDrop, []string{"ALL"}) || !h.ReadonlyRootfs {
				t.Errorf("privileged %v, capabilities %v without %v, read-only root %v", h.Privileged, h.CapAdd, h.CapDrop, h.ReadonlyRootfs)
			}
			if !slices.Contains(h.SecurityOpt, "no-new-privileges") || !slices.ContainsFunc(h.SecurityOpt, func(o string) bool { return strings.HasPrefix(o, "seccomp={") }) {
				t.Errorf("security options %.80q", h.SecurityOpt)
			}
			if h.CgroupnsMode != "private" || h.IpcMode != "private" || h.PidMode != "" || h.UTSMode != "" || h.NetworkMode.IsHost() {
				t.Errorf("name spaces: cgroup %q, ipc %q, pid %q, uts %q, network %q", h.CgroupnsMode, h.IpcMode, h.PidMode, h.UTSMode, h.NetworkMode)
			}
			if h.Memory != runtime.DefaultMemoryBytes || h.MemorySwap != h.Memory || h.NanoCPUs != 2e9 || *h.PidsLimit != runtime.DefaultPidsLimit || len(h.Devices) > 0 || h.PublishAllPorts || h.AutoRemove {
				t.Errorf("resources %+v", h.Resources)
			}
			if h.RestartPolicy.Name != "no" || *h.Init {
				t.Errorf("restart %v, init %v", h.RestartPolicy, *h.Init)
			}
			for _, m := range h.Mounts {
				if !m.ReadOnly && m.Target != runtime.WorkspacePath {
					t.Errorf("%s can be written", m.Target)
				}
			}
			c := p.config(nil, nil)
			if strings.HasPrefix(c.User, "0") || c.User == "" {
				t.Errorf("user %q", c.User)
			}
		})
	}
}

func TestSidecarsAreShutInLikeSandboxes(t *testing.T) {
	t.Parallel()
	p := testPlan(func(p *plan) { p.network, p.runc, p.attempt = testNetwork, "runc", "attempt" })
	s := sidecar{role: "role", place: 5, image: "image", command: []string{"program", "argument"}, user: "7:8", filter: "{}", memory: 64 << 20, pids: 3, files: 9, cpus: 0.5}
	h := s.hostConfig(p)
	if h.Privileged || len(h.CapAdd) > 0 || !slices.Equal(h.CapDrop, []string{"ALL"}) || !h.ReadonlyRootfs || len(h.Tmpfs) > 0 || len(h.PortBindings) > 0 || h.Runtime != "runc" {
		t.Errorf("it may do more: %+v", h)
	}
	if !slices.Equal(h.SecurityOpt, []string{"no-new-privileges", "seccomp={}"}) {
		t.Errorf("security options %q", h.SecurityOpt)
	}
	if h.CgroupnsMode != "private" || h.IpcMode != "private" || h.PidMode != "" || h.NetworkMode != "network" || h.Sysctls["net.ipv4.ip_forward"] != "0" {
		t.Errorf("name spaces: cgroup %q, ipc %q, pid %q, network %q", h.CgroupnsMode, h.IpcMode, h.PidMode, h.NetworkMode)
	}
	if h.Memory != 64<<20 || h.MemorySwap != h.Memory || h.NanoCPUs != 5e8 || *h.PidsLimit != 3 || h.RestartPolicy.Name != "on-failure" {
		t.Errorf("resources %+v, restart %+v", h.Resources, h.RestartPolicy)
	}
	want := map[string]string{runtime.LabelRun: "run_0123456789ab", runtime.LabelHome: "home", runtime.LabelRole: "role", labelAttempt: "attempt"}
	if c := s.config(p); c.User != "7:8" || len(c.Env) > 0 || len(c.Cmd) > 0 || !cmp.Equal(c.Labels, want) {
		t.Errorf("it is made as %+v", c)
	}
}

// The engine's name server is on each network, and may ask others from outside of it.
func TestMembersOfANetworkHaveNobodyToAsk(t *testing.T) {
	t.Parallel()
	p := testPlan(func(p *plan) { p.network = testNetwork })
	h, err := p.hostConfig()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(h.DNS, []string{noNameServer}) || !slices.Equal(h.DNSSearch, []string{"."}) || h.NetworkMode != "network" {
		t.Errorf("network %q, name servers %q, searched %q", h.NetworkMode, h.DNS, h.DNSSearch)
	}
	streams, err := confine.StreamFilterJSON()
	if err != nil || !slices.Contains(h.SecurityOpt, "seccomp="+streams) {
		t.Errorf("it is not for streams only, %v", err)
	}
	for api, hardware := range map[string]string{"1.41": "", "1.44": "02:42:c6:12:07:13", "1.51": "02:42:c6:12:07:13"} {
		if got := testNetwork.join(placeSandbox, api).EndpointsConfig["network"]; got.IPAMConfig.IPv4Address != "198.18.7.19" || got.MacAddress != hardware {
			t.Errorf("by API %s the sandbox is at %s, %s", api, got.IPAMConfig.IPv4Address, got.MacAddress)
		}
	}
	if got := p.gateAddress(); got != "198.18.7.18:3128" {
		t.Errorf("the relay is at %s", got)
	}
}

func TestFactsChooseTheWayToTheGate(t *testing.T) {
	t.Parallel()
	here := facts{sameKernel: true, runc: "runc"}
	with := func(change func(*facts)) *facts {
		f := here
		change(&f)
		return &f
	}
	for name, test := range map[string]struct {
		facts *facts
		force bool
		want  way
		mend  string
	}{
		"runc":                                   {&here, false, waySocket, ""},
		"forced streams":                         {&here, true, wayRelay, "--runtime native"},
		"another machine":                        {&facts{runc: "runc"}, false, wayNone, "runs here"},
		"another machine with gVisor":            {&facts{runc: "runc", runsc: "runsc", sockets: true}, false, wayNone, "runs here"},
		"SELinux":                                {with(func(f *facts) { f.relabels = true }), false, wayNone, "runs here"},
		"gVisor that passes sockets":             {with(func(f *facts) { f.runsc, f.sockets = "runsc", true }), false, waySocket, ""},
		"gVisor that filters":                    {with(func(f *facts) { f.runsc, f.filters = "runsc", true }), false, wayRelay, hostSockets},
		"gVisor where the kernel checks sources": {with(func(f *facts) { f.runsc, f.sources = "runsc", true }), false, wayRelay, hostSockets},
		"gVisor where nothing keeps datagrams":   {with(func(f *facts) { f.runsc = "runsc" }), false, wayNone, hostSockets},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := (&Driver{options: Options{EngineStreams: test.force}}).isolation(test.facts)
			if err != nil || got.gate.way != test.want || !strings.Contains(got.gate.mend, test.mend) || (got.gate.note != "") != (test.want == wayRelay) {
				t.Errorf("got %+v, %v", got.gate, err)
			}
			if test.want != waySocket && got.gate.mend == "" {
				t.Error("it does not say what mends it")
			}
		})
	}
}

func TestPortsArePublishedOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	p := testPlan(func(p *plan) {
		p.spec.Network = runtime.NetworkOpen
		p.spec.Ports = []runtime.PortConfig{{Name: "web", ContainerPort: 80, HostPort: 8080}, {Name: "api", ContainerPort: 81}}
	})
	h, err := p.hostConfig()
	if err != nil {
		t.Fatal(err)
	}
	want := nat.PortMap{"80/tcp": {{HostIP: "127.0.0.1", HostPort: "8080"}}, "81/tcp": {{HostIP: "127.0.0.1"}}}
	if diff := cmp.Diff(want, h.PortBindings); diff != "" {
		t.Error(diff)
	}
}

func TestTheEngineNeverSeesTheRunsSecretsOnACommandLine(t *testing.T) {
	t.Parallel()
	for _, m := range []mode{modeDirect, modeEngine} {
		p := testPlan(func(p *plan) { p.how.mode = m })
		arguments, env, err := p.guestCall()
		if err != nil {
			t.Fatal(err)
		}
		if line := strings.Join(arguments, " "); strings.Contains(line, "SECRET") || strings.Contains(line, "of-the-run") {
			t.Errorf("%s: the command line has the environment: %q", m, line)
		}
		if (m == modeDirect) != (env == nil) {
			t.Errorf("%s: the engine is given %q", m, env)
		}
	}
}

func TestLabelsOfTheDriverCannotBeForged(t *testing.T) {
	t.Parallel()
	labels := testPlan(unchanged).config(nil, nil).Labels
	if labels[runtime.LabelRun] != "run_0123456789ab" || labels["more"] != "label" || labels[runtime.LabelRole] != runtime.RoleSandbox {
		t.Errorf("labels %v", labels)
	}
}

func TestFactsChooseTheMode(t *testing.T) {
	t.Parallel()
	const kernel = "6.1.0"
	info := func(change func(*system.Info)) system.Info {
		i := system.Info{OSType: "linux", Architecture: "x86_64", KernelVersion: kernel}
		i.Runtimes = map[string]system.RuntimeWithStatus{"runc": {}}
		change(&i)
		return i
	}
	for name, test := range map[string]struct {
		info      system.Info
		host      string
		force     bool
		want      mode
		isolation runtime.Isolation
		err       error
	}{
		"an engine on this kernel": {info(func(*system.Info) {}), "unix:///s", false, modeDirect, runtime.IsolationRunc, nil},
		"forced streams":           {info(func(*system.Info) {}), "unix:///s", true, modeEngine, runtime.IsolationRunc, nil},
		"a remote engine":          {info(func(*system.Info) {}), "tcp://h:1", false, modeEngine, runtime.IsolationRunc, nil},
		"another kernel":           {info(func(i *system.Info) { i.KernelVersion = "5" }), "unix:///s", false, modeEngine, runtime.IsolationRunc, nil},
		"Docker Desktop":           {info(func(i *system.Info) { i.OperatingSystem = "Docker Desktop" }), "unix:///s", false, modeEngine, runtime.IsolationRunc, nil},
		"SELinux":                  {info(func(i *system.Info) { i.SecurityOptions = []string{"name=seccomp,profile=x", "name=selinux"} }), "unix:///s", false, modeEngine, runtime.IsolationRunc, nil},
		"gVisor": {info(func(i *system.Info) {
			i.Runtimes["runsc"] = system.RuntimeWithStatus{}
		}), "unix:///s", false, modeEngine, runtime.IsolationGVisor, nil},
		"rootless":           {info(func(i *system.Info) { i.SecurityOptions = []string{"name=rootless"} }), "unix:///s", false, "", "", runtime.ErrUnsupported},
		"Windows containers": {info(func(i *system.Info) { i.OSType = "windows" }), "unix:///s", false, "", "", runtime.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := factsOf(test.info, test.host, kernel)
			if !errors.Is(err, test.err) {
				t.Fatalf("got %v, want %v", err, test.err)
			}
			if err != nil {
				return
			}
			got, err := (&Driver{options: Options{EngineStreams: test.force}}).isolation(f)
			if err != nil || got.mode != test.want || got.isolation != test.isolation {
				t.Errorf("got %+v, %v; want mode %s and %s", got, err, test.want, test.isolation)
			}
		})
	}
}

func TestSandboxOptionDecidesOnGVisor(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	offered, absent := &facts{runsc: "runsc", runc: "runc", filters: true}, &facts{runc: "runc"}
	for name, test := range map[string]struct {
		option *bool
		facts  *facts
		want   string
		noted  bool
		err    error
	}{
		"default, offered":      {nil, offered, "runsc", false, nil},
		"offered, no filter":    {nil, &facts{runsc: "runsc", runc: "runc"}, "runsc", true, nil},
		"default, not offered":  {nil, absent, "runc", true, nil},
		"required, offered":     {&yes, offered, "runsc", false, nil},
		"required, not offered": {&yes, absent, "", false, runtime.ErrUnavailable},
		"refused, offered":      {&no, offered, "runc", true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := (&Driver{options: Options{Sandbox: test.option}}).isolation(test.facts)
			if !errors.Is(err, test.err) || got.runtime != test.want || (got.note != "") != test.noted {
				t.Errorf("got %+v, %v", got, err)
			}
			if err != nil && !strings.Contains(err.Error(), "--platform=systrap") {
				t.Errorf("%v does not say how to mend it", err)
			}
		})
	}
}

func TestHandleOfAnotherVersionIsRefused(t *testing.T) {
	t.Parallel()
	good, err := (&handle{ID: "c", Mode: modeEngine, Network: testNetwork}).encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeHandle(good); err != nil || !reflect.DeepEqual(got.Network, testNetwork) {
		t.Errorf("got %+v, %v", got, err)
	}
	part, err := (&handle{Part: runtime.RoleNetwork, Network: testNetwork}).encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeHandle(part); !errors.Is(err, runtime.ErrUnsupported) {
		t.Errorf("a network is taken for a sandbox: %v", err)
	}
	if _, err := decodeObject(part); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "{}", `{"v":2,"id":"c","mode":"direct"}`, `{"v":1,"id":"","mode":"direct"}`, `{"v":1,"id":"c","mode":"other"}`} {
		if _, err := decodeHandle(runtime.Handle(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestContextOfTheDockerCommandNamesTheEngine(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("DOCKER_HOST", "")
	t.Setenv("DOCKER_CONTEXT", "")
	if got, err := engineHost(""); got != "" || err != nil {
		t.Errorf("without a configuration: %q, %v", got, err)
	}
	if err := host.WriteFile(filepath.Join(dir, "config.json"), map[string]string{"currentContext": "default"}); err != nil {
		t.Fatal(err)
	}
	if got, err := engineHost(""); got != "" || err != nil {
		t.Errorf("with the default context: %q, %v", got, err)
	}
	if got, err := engineHost("unix:///mine"); got != "unix:///mine" || err != nil {
		t.Errorf("with an option: %q, %v", got, err)
	}
	if _, err := engineHost("ssh://host"); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("ssh: %v", err)
	}
}
