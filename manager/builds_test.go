package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest/gateprog/plan"
)

// buildWorld is a world whose images are removed with the test.
func buildWorld(t *testing.T) (*world, *Manager) {
	t.Helper()
	if testedRuntime() != runtime.TypeDocker {
		t.Skip("native runs have no images that are built")
	}
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	t.Cleanup(func() {
		for _, run := range m.List() {
			if err := m.DestroyWith(context.Background(), run.ID, DestroyOptions{Force: true}); err != nil {
				t.Error(err)
			}
		}
		if _, err := m.PruneImages(context.Background(), 0); err != nil {
			t.Error(err)
		}
	})
	return w, m
}

// tlsService is a server that nothing but its own client trusts, and the steps of a
// build that ask it for something.
func tlsService(t *testing.T) (host, script, programs string) {
	t.Helper()
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served by TLS") }))
	t.Cleanup(secure.Close)
	host = secure.Listener.Addr().String()
	name := ""
	steps, err := json.Marshal([]plan.Step{{Name: "tls", Connect: host, TLS: &name, Send: "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n"}})
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(runtimetest.Build(t, "./runtime/runtimetest/gateprog", "gateprog"))
	if err != nil {
		t.Fatal(err)
	}
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = w.Write(map[string][]byte{"/program": program, "/plan": steps}[req.URL.Path])
	}))
	t.Cleanup(files.Close)
	programs = files.Listener.Addr().String()
	return host, fmt.Sprintf("cd /tmp; wget -q http://%s/program; wget -q http://%s/plan; chmod +x program; ./program plan > /made; rm program plan", programs, programs), programs
}

func TestHooksMakeAnImageBehindTheGate(t *testing.T) {
	w, m := buildWorld(t)
	secure, script, programs := tlsService(t)
	wanted := Options{
		PostBuildRoot: script + "\nhead -c 16 /dev/urandom | md5sum > /random",
		PostBuild:     "id -u > ~/.who; test ! -w /made",
		NetworkRules:  []string{secure, programs},
		Cmd:           shell("cat /made ~/.who /random; env | grep -c -i docker; ls /workspace"),
	}
	said := func(opts Options) (*Run, string) {
		run := w.started(m, opts)
		run = w.ended(m, run.ID)
		return run, output(t, m, run.ID)
	}
	run, text := said(wanted)
	if !strings.Contains(text, "served by TLS") || !strings.Contains(text, "\n1000\n") {
		t.Fatalf("the run printed %q", text)
	}
	builds, err := m.Builds()
	if err != nil || len(builds) != 1 || builds[0].Image != run.Image || builds[0].Failed != "" || builds[0].Ended.IsZero() {
		t.Fatalf("the builds are %+v, %v", builds, err)
	}
	for _, ref := range []string{builds[0].ID, run.Image} {
		page, err := m.BuildLog(ref, NetworkQuery{})
		if err != nil {
			t.Fatal(err)
		}
		var seen []string
		for _, e := range page.Entries {
			seen = append(seen, fmt.Sprintf("%s:%d%s %s", e.Host, e.Port, e.Path, e.Decision))
		}
		for _, want := range []string{programs + "/program allowed", secure + " allowed"} {
			if !slices.Contains(seen, want) {
				t.Errorf("of %s is recorded %q, which lacks %q", ref, seen, want)
			}
		}
	}
	same, sameText := said(wanted)
	if builds, err := m.Builds(); err != nil || len(builds) != 1 || same.Image != run.Image || sameText != text {
		t.Errorf("the second time: %+v, %v; the run of %s printed %q", builds, err, same.Image, sameText)
	}
	other := wanted
	other.PostBuild += "; true"
	if changed := w.create(m, other); changed.Image == run.Image {
		t.Errorf("another hook has the same image %s", changed.Image)
	}
	wanted.Rebuild, wanted.IdempotencyKey = true, "built again"
	again, againText := said(wanted)
	// A retry finds the run, and builds nothing again; the same without a build is
	// another request.
	if retried := w.create(m, wanted); retried.ID != again.ID || !retried.Replayed {
		t.Errorf("the retry of %s is %+v", again.ID, retried)
	}
	without := wanted
	without.Rebuild = false
	if run, err := m.Create(t.Context(), without); AsError(err).Code != CodeConflict {
		t.Errorf("the same key without a build: %+v, %v", run, err)
	}
	if again.Image != run.Image || againText == text {
		t.Errorf("built again: the run of %s printed %q, as before", again.Image, againText)
	}
	if builds, err := m.Builds(); err != nil || len(builds) != 3 {
		t.Errorf("the builds are %+v, %v", builds, err)
	}
}

func TestBuildsReachWhatRulesNameAndNothingElse(t *testing.T) {
	w, m := buildWorld(t)
	named, other := service(t), service(t)
	direct := "env -u http_proxy -u HTTP_PROXY -u ALL_PROXY -u all_proxy "
	_, err := m.Create(t.Context(), Options{
		PostBuildRoot: fmt.Sprintf("wget -q -O - http://%s/\n%swget -q -T 5 -O - http://%s/ && exit 40\n%sbusybox nslookup example.com && exit 41\nwget -q -O - http://%s/", named, direct, named, direct, other),
		// By method and path the gate would have to look into the requests of builds.
		NetworkRules: []string{named, other + " allow GET /**"},
	})
	e := AsError(err)
	if err == nil || e.Code != CodePolicyDenied || !strings.Contains(err.Error(), "the gate refused the build: "+other) || !strings.Contains(e.Next, "drawbridge images trace build_") ||
		!strings.Contains(err.Error(), "served /") || strings.Contains(err.Error(), "code: 4") {
		t.Errorf("got %v; next: %s", err, e.Next)
	}
	builds, err := m.Builds()
	if err != nil || len(builds) != 1 || !strings.Contains(builds[0].Failed, other) {
		t.Fatalf("the builds are %+v, %v", builds, err)
	}
	page, err := m.BuildLog(builds[0].ID, NetworkQuery{})
	if err != nil || len(page.Entries) != 2 || page.Entries[0].Decision != "allowed" || page.Entries[1].Decision != "refused" {
		t.Errorf("recorded %+v, %v", page.Entries, err)
	}
	if found, err := m.Images(t.Context()); err != nil || len(found) != 0 {
		t.Errorf("the images are %+v, %v", found, err)
	}
	if left := w.left(m); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

func TestCancelledBuildLeavesNothing(t *testing.T) {
	w, m := buildWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := m.Create(ctx, Options{PostBuildRoot: "echo begun; sleep 1000", Progress: func(line string) {
		if line == "begun" {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left := w.left(m); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// What a process leaves of a build that is killed meanwhile is ended by the next one.
func TestBuildOfADeadProcessIsEnded(t *testing.T) {
	w, m := buildWorld(t)
	g, err := m.newBuildGate(&deps.Plan{}, "drawbridge/run:dead", &Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.sweepBuilds(t.Context()) // its process is there
	if left := w.left(m); !strings.Contains(left, "registration "+g.build.ID) || !strings.Contains(left, "gate of "+g.build.ID) {
		t.Errorf("under way there is\n%s", left)
	}
	dead := g.build
	dead.Holder = "00000000-0000-4000-8000-000000000000"
	if err := g.store.Save(dead); err != nil {
		t.Fatal(err)
	}
	w.manager()
	eventually(t, "the build is ended", func() bool { return w.left(m) == "" })
	if builds, err := m.Builds(); err != nil || len(builds) != 1 || builds[0].Failed == "" {
		t.Errorf("the builds are %+v, %v", builds, err)
	}
	if _, err := g.Dial(t.Context()); err == nil {
		t.Error("its gate still answers")
	}
}

// A step that finds no room is told as that, and leaves no image.
func TestBuildThatFindsNoRoom(t *testing.T) {
	w, m := buildWorld(t)
	full := Options{PostBuildRoot: "cat /dev/zero >/dev/shm/fill", Cmd: shell("true")} // of 64 MiB
	run, err := m.Create(t.Context(), full)
	e := AsError(err)
	if e == nil || e.Code != CodeConflict || !strings.Contains(e.Next, "drawbridge images prune") || !strings.Contains(e.Error(), "No space left on device") || !strings.Contains(e.Error(), "the step that failed") {
		t.Errorf("got %+v, %v", run, err)
	}
	if images, err := m.Images(t.Context()); err != nil || len(images) != 0 || len(m.List()) != 0 {
		t.Errorf("left are %+v, %v, and %d runs", images, err, len(m.List()))
	}
	full.PostBuildRoot = "head -c 1000 /dev/zero >/dev/shm/fill"
	w.create(m, full)
}

func TestBuildsNeedAGate(t *testing.T) {
	if testedRuntime() != runtime.TypeDocker {
		t.Skip("native runs have no images that are built")
	}
	t.Parallel()
	m := newWorld(t).manager()
	if run, err := m.Create(t.Context(), Options{PostBuild: "true"}); AsError(err).Code != CodeUnsupported || !strings.Contains(err.Error(), "gate") {
		t.Errorf("without a gate: %+v, %v", run, err)
	}
	if run, err := m.Create(t.Context(), Options{Rebuild: true}); AsError(err).Code != CodeInvalidArgument || !strings.Contains(err.Error(), "nothing to build") {
		t.Errorf("with nothing to build: %+v, %v", run, err)
	}
}

func TestNativeRunsBuildNothing(t *testing.T) {
	if testedRuntime() != runtime.TypeNative {
		t.Skip("other runtimes build images")
	}
	t.Parallel()
	m := newWorld(t).manager()
	for name, opts := range map[string]Options{
		"a hook":   {PostBuildRoot: "true"},
		"a user's": {PostBuild: "true"},
		"rebuild":  {Rebuild: true, Dependencies: []string{"git"}},
	} {
		if run, err := m.Create(t.Context(), opts); AsError(err).Code != CodeUnsupported || !strings.Contains(AsError(err).Next, "docker") {
			t.Errorf("%s: %+v, %v", name, run, err)
		}
	}
}

// gatesOfBuilds lists what the gate has of builds in a home.
func gatesOfBuilds(home string) []string {
	var left []string
	dirs, _ := filepath.Glob(filepath.Join(home, "builds", "*", "gate"))
	for _, dir := range dirs {
		left = append(left, "gate of "+filepath.Base(filepath.Dir(dir)))
	}
	return left
}
