package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// listenSomewhere listens on a port of loopback that stays free when it is given up:
// it is below those that the system gives to outgoing connections, and below those of
// published ports.
func listenSomewhere(t *testing.T) (net.Listener, int) {
	t.Helper()
	for {
		port := 10000 + rand.IntN(10000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return l, port
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

// freePort returns a port of loopback that nobody has.
func freePort(t *testing.T) int {
	t.Helper()
	l, port := listenSomewhere(t)
	_ = l.Close()
	return port
}

// routedAt has published ports of a home have names at a port, and puts a server into
// the workspace.
func (c *cli) routedAt(port int) {
	c.t.Helper()
	program, err := os.ReadFile(runtimetest.Build(c.t, "./runtime/runtimetest/testprog", "testprog"))
	if err == nil {
		err = os.WriteFile(filepath.Join(c.workspace, "testprog"), program, 0o755)
	}
	if err == nil {
		err = os.MkdirAll(c.home, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(c.home, "config.yaml"), fmt.Appendf(nil, "proxy: {port: %d}\n", port), 0o600)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// site starts a run with a server and returns its ID.
func (c *cli) site(name string, flags ...string) string {
	c.t.Helper()
	args := append([]string{"run", "--detach", "--name", name, "--publish", "web=8000", "--workspace", c.workspace}, flags...)
	started := c.run(append(args, "--", "./testprog", "http", "8000")...)
	if started.code != 0 {
		c.t.Fatalf("%+v", started)
	}
	id := strings.TrimSpace(started.out)
	c.t.Cleanup(func() {
		if got := c.run("destroy", "--force", id); got.code != 0 && !strings.Contains(got.err, "not found") {
			c.t.Errorf("destroy: %+v", got)
		}
	})
	return id
}

// fetch asks for a URL, of which every name means this machine, as for a browser.
func fetch(url string) (int, string, error) {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+port)
		},
	}}
	resp, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func wantServed(t *testing.T, url string) {
	t.Helper()
	last := ""
	eventually(t, "an answer at "+url, func() bool {
		status, body, err := fetch(url + "/x")
		last = fmt.Sprint(status, body, err)
		return status == http.StatusOK && body == "served /x"
	})
	if t.Failed() {
		t.Log(last)
	}
}

func TestPublishedPortsHaveNames(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	testNames(t, c)
}

func TestPublishedPortsOfContainersHaveNames(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	testNames(t, c, "--image", runtimetest.Image(t))
}

func testNames(t *testing.T, c *cli, flags ...string) {
	t.Helper()
	port := freePort(t)
	c.routedAt(port)
	id := c.site("site", flags...)
	url := fmt.Sprintf("http://web.site.localhost:%d", port)
	wantServed(t, url)
	wantServed(t, fmt.Sprintf("http://web.%s.localhost:%d", id, port))
	if got := c.run("open", "site"); got.out != url+"\n" {
		t.Errorf("open: %+v", got)
	}
	if got := c.run("open", "site", "no"); got.code == 0 || !strings.Contains(got.err, "name one of them: web") {
		t.Errorf("open another endpoint: %+v", got)
	}
	if text := c.run("inspect", id).out; !strings.Contains(text, " and "+url) {
		t.Errorf("inspect shows\n%s", text)
	}
	if got := c.inspect(id).URLs["web"]; got != url {
		t.Errorf("the URL is %q", got)
	}
	env := c.run("exec", "site", "--", "sh", "-c", "echo $MOAT_HOST $MOAT_URL $MOAT_HOST_WEB $MOAT_URL_WEB").out
	if want := fmt.Sprintf("site.localhost:%[1]d http://site.localhost:%[1]d web.site.localhost:%[1]d http://web.site.localhost:%[1]d\n", port); env != want {
		t.Errorf("the run knows %q, want %q", env, want)
	}
	if status, body, err := fetch(fmt.Sprintf("http://localhost:%d/", port)); status != http.StatusOK || !strings.Contains(body, url) {
		t.Errorf("the index: %d %s %v", status, body, err)
	}
	if status, body, err := fetch(fmt.Sprintf("http://example.com:%d/", port)); status != http.StatusBadRequest || !strings.Contains(body, "bad_host") {
		t.Errorf("another name: %d %s %v", status, body, err)
	}

	// A run of another name is not reached by this one's, and a run that has ended by
	// none.
	c.site("other", flags...)
	wantServed(t, fmt.Sprintf("http://web.other.localhost:%d", port))
	if got := c.run("destroy", "--force", id); got.code != 0 {
		t.Errorf("destroy: %+v", got)
	}
	if status, body, err := fetch(url + "/"); status != http.StatusNotFound || !strings.Contains(body, "no_such_run") {
		t.Errorf("after the end: %d %s %v", status, body, err)
	}
	if got := c.run("destroy", "--force", "other"); got.code != 0 {
		t.Errorf("destroy: %+v", got)
	}
	eventually(t, "a free port", func() bool {
		_, _, err := fetch(url + "/")
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// A daemon that takes another's place knows all names.
func TestNamesSurviveTheDaemon(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	port := freePort(t)
	c.routedAt(port)
	id := c.site("site")
	url := fmt.Sprintf("http://web.site.localhost:%d", port)
	wantServed(t, url)
	waiting := c.start("wait", "--timeout", "10m", id) // it sees to it that there is a daemon
	client := daemon.NewClient(c.home, nil)
	defer client.Close()
	first, err := client.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another daemon", func() bool {
		now, err := client.Health(t.Context())
		return err == nil && now.PID != first.PID
	})
	wantServed(t, url)
	if got := c.inspect(id).URLs["web"]; got != url {
		t.Errorf("the URL is %q", got)
	}
	if got := c.run("stop", id); got.code != 0 {
		t.Errorf("stop: %+v", got)
	}
	waiting.wait()
}

// A port that another program has is no obstacle to anything but the names.
func TestWithoutTheirPortThereAreNoNames(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	taken, port := listenSomewhere(t)
	c.routedAt(port)
	id := c.site("site")
	run := c.inspect(id)
	wantServed(t, fmt.Sprintf("http://127.0.0.1:%d", run.HostPorts["web"]))
	eventually(t, "a word about it", func() bool { run = c.inspect(id); return run.URLsNote != "" })
	if len(run.URLs) != 0 || !strings.Contains(run.URLsNote, fmt.Sprint(port)) || !strings.Contains(run.URLsNote, "proxy.port") {
		t.Errorf("%v, %q", run.URLs, run.URLsNote)
	}
	if got := c.run("open", "site"); got.code == 0 || !strings.Contains(got.err, fmt.Sprintf("http://127.0.0.1:%d", run.HostPorts["web"])) {
		t.Errorf("open: %+v", got)
	}
	// Once it is free, there are names.
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	wantServed(t, fmt.Sprintf("http://web.site.localhost:%d", port))
}

// A run reaches no other one by its name, whatever else it may reach: names below
// localhost are this machine's.
func TestRunsDoNotReachEachOtherByName(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	port := freePort(t)
	c.routedAt(port)
	c.site("site")
	host := fmt.Sprintf("web.site.localhost:%d", port)
	wantServed(t, "http://"+host)
	for _, name := range []string{host, fmt.Sprintf("localhost:%d", port), fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("[::1]:%d", port)} {
		script := `exec 3<>/dev/tcp/127.0.0.1/3128; printf 'GET http://` + name + `/ HTTP/1.1\r\nHost: ` + name + `\r\nConnection: close\r\n\r\n' >&3; cat <&3`
		got := c.run("run", "--rm", "--network", "permissive", "--workspace", c.workspace, "--", "bash", "-c", script)
		if got.code != 0 || !strings.Contains(got.out, " 403 ") || strings.Contains(got.out, "served") {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// The mirror: a rule that names it.
	name := fmt.Sprintf("localhost:%d", port)
	script := `exec 3<>/dev/tcp/127.0.0.1/3128; printf 'GET http://` + name + `/ HTTP/1.1\r\nHost: ` + name + `\r\nConnection: close\r\n\r\n' >&3; cat <&3`
	if got := c.run("run", "--rm", "--allow", name, "--workspace", c.workspace, "--", "bash", "-c", script); !strings.Contains(got.out, " 200 ") {
		t.Errorf("with a rule: %+v", got)
	}
}
