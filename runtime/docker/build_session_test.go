//go:build unix

package docker

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// testGate is a proxy on this machine in place of the gate, which answers itself.
type testGate struct {
	server *httptest.Server

	opened, closed, dialled atomic.Int32

	mu    sync.Mutex // guards asked
	asked []string   // what steps asked for
}

func newTestGate(t *testing.T) *testGate {
	g := &testGate{}
	g.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		content, _ := io.ReadAll(req.Body)
		g.mu.Lock()
		g.asked = append(g.asked, req.Method+" "+req.URL.String())
		g.mu.Unlock()
		if req.URL.Path == "/large" {
			_, _ = io.WriteString(w, strings.Repeat("0123456789abcdef", 1<<17))
			return
		}
		fmt.Fprintf(w, "through the gate: %d bytes", len(content))
	}))
	t.Cleanup(g.server.Close)
	return g
}

func (g *testGate) Open(context.Context) error { g.opened.Add(1); return nil }

func (g *testGate) Dial(ctx context.Context) (net.Conn, error) {
	g.dialled.Add(1)
	var d net.Dialer
	return d.DialContext(ctx, "tcp", g.server.Listener.Addr().String())
}

func (g *testGate) Close(_ context.Context, failed error) error {
	g.closed.Add(1)
	if failed != nil {
		return errors.Join(failed, errors.New("the gate was told"))
	}
	return nil
}

// behindGate has the commands of a build behind a gate.
func behindGate(t testing.TB, d *Driver, g *testGate, steps ...string) runtime.BuildSpec {
	t.Helper()
	builder, err := d.Builder(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{"USER root", `SHELL ["` + strings.Join(builder.Shell, `", "`) + `"]`}
	for _, step := range steps {
		if command, is := strings.CutPrefix(step, "RUN "); is {
			step = "RUN " + builder.RunFlags + " " + command
		}
		lines = append(lines, step)
	}
	spec := testBuild(t, d, append(lines, `SHELL ["/bin/sh", "-c"]`)...)
	spec.Gate = g
	return spec
}

func gateDriver(t *testing.T) *Driver {
	t.Helper()
	return newDriver(t, Options{GuestDir: runtimetest.GuestDir(t)})
}

func TestStepsOfABuildReachTheirGate(t *testing.T) {
	t.Parallel()
	d, g := gateDriver(t), newTestGate(t)
	spec := behindGate(t, d, g,
		unique("wget -q -O - http://example.invalid/hello; echo; wget -q -O - --post-data=$(head -c 60000 /dev/zero | tr '\\0' x) http://example.invalid/post; echo"),
		"USER 1000:1000", unique("wget -q -O - http://example.invalid/large | wc -c"),
	)
	var lines []string
	if _, err := d.Build(soon(t), spec, func(line string) { lines = append(lines, line) }); err != nil {
		t.Fatal(err)
	}
	said := strings.Join(lines, "\n")
	for _, want := range []string{"through the gate: 0 bytes", "through the gate: 60000 bytes", "2097152"} {
		if !strings.Contains(said, want) {
			t.Errorf("the steps say nothing of %q:\n%s", want, said)
		}
	}
	if o, c := g.opened.Load(), g.closed.Load(); o != 1 || c != 1 {
		t.Errorf("the gate was opened %d and closed %d times", o, c)
	}
	// The second time nothing is built.
	if _, err := d.Build(soon(t), spec, nil); err != nil || g.opened.Load() != 1 {
		t.Errorf("the second time: %v, opened %d times", err, g.opened.Load())
	}
}

func TestStepsOfABuildReachNothingElse(t *testing.T) {
	t.Parallel()
	d, g := gateDriver(t), newTestGate(t)
	direct := "env -u http_proxy -u HTTP_PROXY -u https_proxy -u HTTPS_PROXY -u all_proxy -u ALL_PROXY "
	spec := behindGate(t, d, g, unique("echo links: $(cat /proc/net/dev | sed 1,2d | cut -d: -f1); echo routes: $(cat /proc/net/route | sed 1d); "+
		"for u in "+g.server.URL+" http://172.17.0.1/ http://10.0.0.1/ http://example.com/; do "+direct+"wget -T 5 -q -O - $u && echo reached $u; done; "+
		direct+"busybox nslookup example.com && echo resolved; true"))
	var lines []string
	if _, err := d.Build(soon(t), spec, func(line string) { lines = append(lines, line) }); err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if strings.HasPrefix(line, "reached") || strings.HasPrefix(line, "resolved") || strings.HasPrefix(line, "through") {
			t.Errorf("a step says %q", line)
		}
	}
	if !slices.Contains(lines, "links: lo") || !slices.Contains(lines, "routes:") {
		t.Errorf("a step has links or routes:\n%s", strings.Join(lines, "\n"))
	}
	if n := g.dialled.Load(); n != 0 {
		t.Errorf("the gate was asked %d times", n)
	}
}

// What a step has of the gate is in no layer, no variable and no line of the history.
func TestNothingOfTheGateStaysInAnImage(t *testing.T) {
	t.Parallel()
	d, g := gateDriver(t), newTestGate(t)
	spec := behindGate(t, d, g, unique("wget -q -O /fetched http://example.invalid/hello"))
	made, err := d.Build(soon(t), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	found, err := d.cli.ImageInspect(soon(t), made.ID)
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(found.Config.Env, " "); strings.Contains(strings.ToLower(text), "proxy") || strings.Contains(strings.Join(found.Config.Shell, " "), stepDir) {
		t.Errorf("the image has the environment %q and the shell %q", text, found.Config.Shell)
	}
	history, err := d.cli.ImageHistory(soon(t), made.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range history {
		if strings.Contains(step.CreatedBy, "127.0.0.1") || strings.Contains(strings.ToLower(step.CreatedBy), "proxy") {
			t.Errorf("the history has %q", step.CreatedBy)
		}
	}
	files := savedFiles(t, d, spec.Tag)
	if !strings.Contains(files, "fetched\n") {
		t.Fatalf("the image has the files\n%s", files)
	}
	for file := range strings.Lines(files) {
		if strings.Contains(file, "drawbridge") || strings.Contains(file, "guest") || strings.Contains(file, ".sock") {
			t.Errorf("the image has %s", file)
		}
	}
}

func TestBuildThatFailsClosesItsGate(t *testing.T) {
	t.Parallel()
	d, g := gateDriver(t), newTestGate(t)
	_, err := d.Build(soon(t), behindGate(t, d, g, unique("exit 3")), nil)
	var failed *runtime.BuildError
	if !errors.As(err, &failed) || !strings.Contains(failed.Why, "3") || !strings.Contains(err.Error(), "the gate was told") {
		t.Errorf("got %v", err)
	}
	if o, c := g.opened.Load(), g.closed.Load(); o != 1 || c != 1 {
		t.Errorf("the gate was opened %d and closed %d times", o, c)
	}
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	_, err = d.Build(ctx, behindGate(t, d, g, unique("echo begun; sleep 1000")), func(line string) {
		if line == "begun" {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || g.opened.Load() != 2 || g.closed.Load() != 2 {
		t.Errorf("cancelled: %v; the gate was opened %d and closed %d times", err, g.opened.Load(), g.closed.Load())
	}
}

func TestRebuildTakesNoStepFromBefore(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{})
	spec := testBuild(t, d, "RUN head -c 16 /dev/urandom | md5sum > /random")
	first, err := d.Build(soon(t), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec.Rebuild = true
	second, err := d.Build(soon(t), spec, nil)
	if err != nil || second.ID == first.ID || second.Ref != first.Ref {
		t.Fatalf("built %+v and then %+v, %v", first, second, err)
	}
	if _, err := d.cli.ImageInspect(soon(t), first.ID); err == nil {
		t.Error("the first image is still there")
	}
	spec.Rebuild = false
	if third, err := d.Build(soon(t), spec, nil); err != nil || third.ID != second.ID {
		t.Errorf("after it: %+v, %v", third, err)
	}
}

// savedFiles lists the files in the layers of an image, a line each.
func savedFiles(t *testing.T, d *Driver, ref string) string {
	t.Helper()
	body, err := d.cli.ImageSave(soon(t), []string{ref})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	var files strings.Builder
	outer := tar.NewReader(body)
	for {
		header, err := outer.Next()
		if errors.Is(err, io.EOF) {
			return files.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		layer := tar.NewReader(outer)
		for {
			file, err := layer.Next()
			if err != nil {
				break // the end, or no layer
			}
			files.WriteString(strings.TrimPrefix(file.Name, "./") + "\n")
		}
	}
}
