package manager

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// The runs here have the client of Docker from this machine, in an image that is put in
// the place of the one that would be built.

// dockerRun returns what a run with Docker is made from.
func (w *world) dockerRun(m *Manager, mode, script string) Options {
	w.t.Helper()
	image, list := runtimetest.DockerImage(w.t), []string{"docker:" + mode}
	buildInPlaceOf(w, m, image, list)
	opts := Options{Image: image, Dependencies: list, Cmd: shell(script)}
	if mode == "dind" {
		opts.Services = map[string]config.Service{"docker": {Image: image}}
	}
	return opts
}

func TestRunUsesTheEngineOfThisMachine(t *testing.T) {
	t.Parallel()
	w := serviceWorldOf(t).withGate()
	m := w.manager()
	const script = `docker version --format 'server {{.Server.Version}}'; docker ps --no-trunc -q`
	// An engine lists a container when its start has been answered, which the command need
	// not wait for.
	opts := w.dockerRun(m, "host", "until [ -e answered ]; do sleep 0.1; done; "+script)
	run := w.started(m, opts)
	if err := os.WriteFile(filepath.Join(run.Workspace, "answered"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(run.IsolationNote, "NO ISOLATION FROM THE HOST") {
		t.Errorf("its isolation is told as %s, %q", run.Isolation, run.IsolationNote)
	}
	container := run.ContainerID
	w.ended(m, run.ID)
	if text := output(t, m, run.ID); !strings.Contains(text, "server ") || !strings.Contains(text, container) {
		t.Errorf("it printed %q, want the container %s among those of the engine", text, container)
	}
	// So does what is run in it later.
	run = w.started(m, Options{Image: opts.Image, Dependencies: opts.Dependencies, Cmd: shell("sleep 600")})
	result, err := m.Exec(t.Context(), run.ID, ExecOptions{Command: shell(script)})
	if err != nil || !strings.Contains(string(result.Stdout.Head), run.ContainerID) {
		t.Errorf("a further command: %+v, %v", result, err)
	}
	// Without the dependency there is no engine.
	run = w.started(m, Options{Image: opts.Image, Cmd: shell(script + "; ls /var/run/docker.sock")})
	w.ended(m, run.ID)
	if text := output(t, m, run.ID); strings.Contains(text, "server 2") || !strings.Contains(text, "/var/run/docker.sock: No such file") || strings.Contains(run.IsolationNote, "NO ISOLATION") {
		t.Errorf("without docker:host it printed %q, with the note %q", text, run.IsolationNote)
	}
}

func TestDockerIsRefusedWhereItMayNotBeOrCannotBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	agents := w.manager(func(o *ManagerOptions) { o.ForAgents = true })
	workspace := t.TempDir()
	for _, mode := range []string{"host", "dind"} {
		flag := "`drawbridge serve --allow-docker " + mode + "`"
		_, err := agents.Create(t.Context(), Options{Dependencies: []string{"docker:" + mode}, Cmd: shell("true")})
		if AsError(err).Code != CodePolicyDenied || !strings.Contains(err.Error(), flag) {
			t.Errorf("agents that ask for docker:%s: %v", mode, err)
		}
		if err := os.WriteFile(filepath.Join(workspace, "moat.yaml"), []byte("dependencies:\n  - docker:"+mode+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = agents.Create(t.Context(), Options{Workspace: workspace, Project: true, Cmd: shell("true")})
		if AsError(err).Code != CodePolicyDenied || !strings.Contains(err.Error(), flag) || !strings.Contains(err.Error(), "moat.yaml:2:5") {
			t.Errorf("a project that asks for docker:%s: %v", mode, err)
		}
		// Permission for the one is none for the other.
		other := map[string]config.Permission{"host": config.AllowDockerDind, "dind": config.AllowDockerHost}[mode]
		_, err = w.manager(func(o *ManagerOptions) { o.ForAgents, o.Allow = true, []config.Permission{other, config.AllowServices} }).
			Create(t.Context(), Options{Dependencies: []string{"docker:" + mode}, Cmd: shell("true")})
		if AsError(err).Code != CodePolicyDenied {
			t.Errorf("docker:%s with permission for the other: %v", mode, err)
		}
	}
	settings := map[string]config.Service{"docker": {Memory: 512}}
	_, err := agents.Create(t.Context(), Options{Services: settings, Cmd: shell("true")})
	if AsError(err).Code != CodeInvalidArgument || !strings.Contains(err.Error(), "add docker:dind to the dependencies") {
		t.Errorf("settings of an engine that is not there: %v", err)
	}
	if w.kind != runtime.TypeNative {
		return
	}
	m := w.manager(func(o *ManagerOptions) {
		o.ForAgents, o.Allow = true, []config.Permission{config.AllowDockerHost, config.AllowDockerDind}
	})
	for mode, want := range map[string]error{"host": ErrDockerHostRequiresDockerRuntime{}, "dind": ErrDockerDindRequiresDockerRuntime{}} {
		if _, err := m.Create(t.Context(), Options{Dependencies: []string{"docker:" + mode}, Cmd: shell("true")}); !errors.Is(err, want) || AsError(err).Code != CodeUnsupported {
			t.Errorf("docker:%s on native: %v, want %v", mode, err, want)
		}
	}
}

// importInner gives the engine of a run the image inner:1, which has busybox.
const importInner = "tar -C / -c bin | docker import - inner:1 >/dev/null || exit 1\n"

// dindRun starts a run with an engine of its own, which may reach named, waits for its end and
// returns what it printed.
func (w *world) dindRun(m *Manager, script string, named ...string) (*Run, string) {
	w.t.Helper()
	opts := w.dockerRun(m, "dind", importInner+script)
	opts.NetworkRules, opts.KeepContainer = named, true
	run := w.started(m, opts)
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Minute)
	defer cancel()
	if err := m.Wait(ctx, run.ID); err != nil {
		if _, failed := IsFailed(err); !failed {
			w.t.Fatal(err)
		}
	}
	text := output(w.t, m, run.ID)
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("it printed:\n%s", text)
		}
	})
	return w.get(m, run.ID), text
}

func TestRunHasAnEngineOfItsOwn(t *testing.T) {
	t.Parallel()
	w := serviceWorldOf(t).withGate()
	m := w.manager(patient)
	run, text := w.dindRun(m, `
		docker version --format 'server {{.Server.Version}}'
		docker run --rm inner:1 /bin/sh -c 'echo inner is $(id -u)'
		docker run -d --name left inner:1 /bin/sh -c 'sleep 600' >/dev/null; docker ps --format '{{.Names}} is up'`)
	if !strings.HasPrefix(text, "server ") || !strings.HasSuffix(text, "inner is 0\nleft is up\n") {
		t.Errorf("it printed %q", text)
	}
	if !strings.Contains(run.IsolationNote, "own Docker engine") || len(run.Services) != 1 || run.Services[0].Name != "docker" || run.Services[0].State != ServiceStopped {
		t.Errorf("the run has %+v and the note %q", run.Services, run.IsolationNote)
	}
	if err := m.Destroy(t.Context(), run.ID); err != nil {
		t.Error(err)
	}
	if left := w.left(m); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// Containers of a run's engine reach what the run reaches, by its gate, and nothing else.
func TestContainersOfARunReachItsGateAndNothingElse(t *testing.T) {
	t.Parallel()
	w := serviceWorldOf(t).withGate()
	m := w.manager(patient)
	named, open := service(t), openServer(t)
	var direct strings.Builder
	for _, address := range append(hostAddresses(t), "198.18.0.1", "10.0.2.2") {
		fmt.Fprintf(&direct, `printf "GET /direct HTTP/1.0\r\n\r\n" | nc -w 5 %s %s & `, address, open)
	}
	run, text := w.dindRun(m, `
		docker run --rm -e http_proxy=http://`+runtime.EngineGate+` inner:1 /bin/sh -c 'wget -q -O - http://`+named+`/yes; echo; wget -q -O - http://127.0.0.1:`+open+`/no 2>&1'
		docker run --rm inner:1 /bin/sh -c 'printf "GET http://`+named+`/plain HTTP/1.0\r\n\r\n" | nc -w 60 `+engineGate()+`; echo'
		for net in bridge host none; do
			docker run --rm --network $net inner:1 /bin/sh -c '`+direct.String()+` nslookup example.com & wait; echo over'
		done
		docker pull registry.example.com/image:1`, named)
	for _, want := range []string{"served /yes\n", "served /plain\n", "403 Forbidden"} {
		if !strings.Contains(text, want) {
			t.Errorf("it printed no %q", want)
		}
	}
	if strings.Contains(text, "served /direct") || strings.Contains(text, "served /no") || strings.Contains(text, "Name:\texample.com") || strings.Count(text, "over\n") != 3 {
		t.Error("it reached what it should not, or did not try")
	}
	requests, err := m.NetworkLog(t.Context(), run.ID, NetworkQuery{})
	if err != nil || !strings.Contains(fmt.Sprintf("%+v", requests), "registry.example.com") {
		t.Errorf("the record has no image that was asked for: %+v, %v", requests, err)
	}
}

// engineGate is runtime.EngineGate for nc.
func engineGate() string { return strings.Replace(runtime.EngineGate, ":", " ", 1) }

// Whoever has all that a run's engine has is root in that, and nobody on this machine.
func TestEngineOfARunIsNobodyOnThisMachine(t *testing.T) {
	t.Parallel()
	w := serviceWorldOf(t).withGate()
	m := w.manager(patient)
	const pattern = "/proc/sys/kernel/core_pattern"
	before, err := os.ReadFile(pattern)
	if err != nil {
		t.Fatal(err)
	}
	run, text := w.dindRun(m, `
		docker run --rm --privileged inner:1 /bin/sh -c 'echo evil >/proc/sys/kernel/core_pattern && echo privileged did it'
		docker run --rm --cap-add ALL --pid host --network host --security-opt seccomp=unconfined -v /:/outside inner:1 /bin/sh -c '
			for p in /proc/[0-9]*; do cat $p/environ; done 2>/dev/null | tr "\\0" "\\n"
			touch /outside/bin/mine /outside/run/drawbridge/mine
			nsenter -t 1 -m /bin/sh -c "umount /proc && cat /proc/1/environ; echo evil >/proc/sys/kernel/core_pattern; echo b >/proc/sysrq-trigger"
			nsenter -t 1 -m -n /bin/sh -c "nsenter --net=/proc/1/ns/net ip addr"
			mkdir /c && mount -t cgroup -o memory none /c && echo evil >/c/release_agent && echo took the control group
			mknod /disk b 254 0; mount -t ext4 /disk /c && echo mounted a disk; reboot -f; echo tried all'`)
	for _, want := range []string{"HOME=/run/engine\n", "touch: /outside/bin/mine: Read-only file system", "touch: /outside/run/drawbridge/mine: Permission denied", "tried all\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("it printed no %q", want)
		}
	}
	for _, bad := range []string{run.ProxyAuthToken, "privileged did it", "took the control group", "mounted a disk", "198.18."} {
		if strings.Contains(text, bad) {
			t.Errorf("it printed %q", bad)
		}
	}
	if now, err := os.ReadFile(pattern); err != nil || !bytes.Equal(now, before) {
		t.Errorf("%s of this machine is %q, %v; it was %q", pattern, now, err, before)
	}
}

// What an engine of a run gets from registries goes through the run's gate, which may look
// into it.
func TestEngineOfARunUsesRegistriesByTheGate(t *testing.T) {
	t.Parallel()
	certificate, roots := authority(t)
	w := serviceWorldOf(t).withGate(roots)
	m := w.manager(patient)
	server := httptest.NewUnstartedServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
	server.StartTLS()
	t.Cleanup(server.Close)
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	at := policy.HostName + ":" + port
	_, text := w.dindRun(m, `set -e
		docker tag inner:1 `+at+`/inner:1
		docker push -q `+at+`/inner:1
		docker rmi inner:1 `+at+`/inner:1 >/dev/null
		printf 'FROM `+at+`/inner:1\nRUN echo built >/made\n' | DOCKER_BUILDKIT=0 docker build -q -t made - >/dev/null
		docker run --rm made /bin/cat /made`, at+" allow * /v2/**")
	if !strings.HasSuffix(text, "built\n") {
		t.Errorf("it printed %q", text)
	}
}

func TestEngineOfARunWithoutAGateHasNoWayOut(t *testing.T) {
	t.Parallel()
	w := serviceWorldOf(t)
	m := w.manager(patient)
	opts := w.dockerRun(m, "dind", importInner+`
		docker run --rm --network host inner:1 /bin/sh -c 'echo up; nc -w 5 `+engineGate()+` </dev/null 2>/dev/null || echo no gate'`)
	opts.Network = NetworkNone
	run := w.started(m, opts)
	w.ended(m, run.ID)
	if text := output(t, m, run.ID); !strings.HasSuffix(text, "up\nno gate\n") {
		t.Errorf("it printed %q", text)
	}
}

// Whatever step ends it, nothing of a run's engine is left.
func TestEngineOfARunLeavesNothingAfterACrash(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"create: make the sandbox", "create: publish the run", "start: record that it runs", "finish: release the sandbox"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := serviceWorldOf(t).withGate()
			opts := w.dockerRun(w.manager(), "dind", "")
			victim := w.victim(step, "docker version")
			victim.Env = append(victim.Env, crashEngine+"="+opts.Image)
			if err := victim.Run(); err == nil || !strings.Contains(err.Error(), "signal: killed") {
				t.Fatalf("the victim ended with %v", err)
			}
			w.leavesNothing()
		})
	}
}

// openServer is a server on all addresses of this machine, which no rule names.
func openServer(t *testing.T) (port string) {
	t.Helper()
	listener, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprint(w, "served ", req.URL.Path)
	}))
	_ = s.Listener.Close()
	s.Listener = listener
	s.Start()
	t.Cleanup(s.Close)
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	return port
}

// hostAddresses are those of this machine's interfaces.
func hostAddresses(t *testing.T) []string {
	t.Helper()
	found, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, address := range found {
		if ip, _, err := net.ParseCIDR(address.String()); err == nil && ip.To4() != nil {
			all = append(all, ip.String())
		}
	}
	return all
}
