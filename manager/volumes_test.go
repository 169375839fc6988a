package manager

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// writeFiles writes files below dir, and makes what is missing above them.
func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// ran makes a run, waits for its end, destroys it and returns what it printed.
func (w *world) ran(m *Manager, opts Options) string {
	w.t.Helper()
	run := w.started(m, opts)
	w.ended(m, run.ID)
	text := output(w.t, m, run.ID)
	if err := m.Destroy(w.t.Context(), run.ID); err != nil {
		w.t.Fatal(err)
	}
	return text
}

func volumeIDs(volumes []Volume) (ids []string) {
	for _, v := range volumes {
		ids = append(ids, v.ID)
	}
	return ids
}

func TestVolumesOutliveTheRunsOfTheirNameAndWorkspace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	agents := func(o *ManagerOptions) { o.ForAgents = true }
	const project = "name: project\nvolumes: [{name: cache, target: /cache}, {name: deps, target: /workspace/deps/inside}]\n"
	look := shell("cat /cache/kept deps/inside/kept 2>/dev/null; echo $WHO >/cache/kept; echo $WHO >deps/inside/kept")
	one, other := workspaceFor(t), workspaceFor(t)
	for _, dir := range []string{one, other} {
		writeFiles(t, dir, map[string]string{"moat.yaml": project})
	}
	for _, tt := range []struct {
		who, workspace, name string
		want                 string
	}{
		{"first", one, "", ""},
		{"second", one, "", "first\nfirst\n"},
		{"of another workspace", other, "", ""},
		{"of another name", one, "elsewhere", ""},
		{"third", one, "project", "second\nsecond\n"},
	} {
		// Each with a Manager of its own, as after a restart.
		got := w.ran(w.manager(agents), Options{Workspace: tt.workspace, Project: true, Name: tt.name, Cmd: look, Env: []string{"WHO=" + tt.who}})
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.who, got, tt.want)
		}
	}
	if files, err := filepath.Glob(filepath.Join(one, "deps", "*", "*")); err != nil || len(files) > 0 {
		t.Errorf("in the workspace there are %v, %v", files, err)
	}
	m := w.manager()
	all, err := m.Volumes(t.Context())
	if err != nil || len(all) != 6 {
		t.Fatalf("the volumes are %+v, %v", all, err)
	}
	for _, v := range all {
		if v.Type != VolumeBind || v.Bytes == 0 || len(v.UsedBy) > 0 || v.Workspace != one && v.Workspace != other || !slices.Contains([]string{"cache", "deps"}, v.Name) {
			t.Errorf("got %+v", v)
		}
		if info, err := os.Stat(v.Dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("its directory: %v, %v", info, err)
		}
	}
}

func TestVolumesThatAreUsedStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	workspace := workspaceFor(t)
	writeFiles(t, workspace, map[string]string{"kept": "kept"})
	opts := Options{Workspace: workspace, Name: "user", Interactive: true, Cmd: shell("ln -s /etc /v/link; mkdir -p /v/shut/deep; echo x >/v/shut/deep/file; chmod 0 /v/shut /v; echo ready; read end"),
		Volumes: []VolumeMount{{Name: "v", Target: "/v"}}}
	run := w.started(m, opts)
	eventually(t, "the run is ready", func() bool { return strings.Contains(output(t, m, run.ID), "ready") })
	id := onlyVolume(t, m)
	second := w.manager()
	if err := second.RemoveVolume(t.Context(), id); AsError(err).Code != CodeConflict {
		t.Errorf("remove the volume of a live run: %v", err)
	}
	if err := m.Stop(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if gone, err := second.PruneVolumes(t.Context(), false); err != nil || len(gone) > 0 {
		t.Errorf("of an ended run, prune removes %v, %v", gone, err)
	}
	if err := m.Destroy(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if gone, err := second.PruneVolumes(t.Context(), true); err != nil || len(gone) != 1 || onlyVolume(t, m) != id {
		t.Errorf("a dry run of prune: %v, %v", gone, err)
	}
	if gone, err := second.PruneVolumes(t.Context(), false); err != nil || !slices.Equal(volumeIDs(gone), []string{id}) {
		t.Errorf("prune removes %v, %v", gone, err)
	}
	if err := m.RemoveVolume(t.Context(), id); AsError(err).Code != CodeNotFound {
		t.Errorf("remove it again: %v", err)
	}
	left, err := os.ReadDir(filepath.Join(w.home, "volumes"))
	if err != nil || len(left) != 1 {
		t.Errorf("in the home there are %v, %v", left, err)
	}
}

func onlyVolume(t *testing.T, m *Manager) string {
	t.Helper()
	all, err := m.Volumes(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("the volumes are %+v, %v", all, err)
	}
	return all[0].ID
}

func TestVolumesOfTheEngine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	opts := Options{Name: "engine", Cmd: shell("cat /v/kept; echo kept >/v/kept"), Volumes: []VolumeMount{{Name: "v", Target: "/v", Type: VolumeEngine}}}
	if w.kind != runtime.TypeDocker {
		if _, err := m.Create(t.Context(), opts); AsError(err).Code != CodeUnsupported || !strings.Contains(err.Error(), "v is to be one") {
			t.Errorf("got %v", err)
		}
		return
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := m.PruneVolumes(ctx, false); err != nil {
			t.Error(err)
		}
	})
	w.ran(m, opts)
	if got := w.ran(w.manager(), opts); got != "kept\n" {
		t.Errorf("the second run printed %q", got)
	}
	id := onlyVolume(t, m)
	all, err := m.Volumes(t.Context())
	want := []Volume{{ID: id, Type: VolumeEngine, Name: "v", Run: "engine"}}
	if diff := cmp.Diff(want, all); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	run := w.create(m, opts)
	if err := m.RemoveVolume(t.Context(), id); AsError(err).Code != CodeConflict {
		t.Errorf("remove it while a run has it: %v", err)
	}
	if err := m.Destroy(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if err := m.RemoveVolume(t.Context(), id); err != nil {
		t.Error(err)
	}
	if all, err := m.Volumes(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("there are still %v, %v", all, err)
	}
}

func TestVolumesThatNoRunCanHave(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	mount := []runtime.MountConfig{{Source: t.TempDir(), Target: "/m", Exclude: []string{"hidden"}}}
	for name, opts := range map[string]Options{
		"no name":           {Volumes: []VolumeMount{{Name: "v", Target: "/v"}}},
		"a path":            {Name: "n", Volumes: []VolumeMount{{Name: "../v", Target: "/v"}}},
		"a dot":             {Name: "n", Volumes: []VolumeMount{{Name: ".lock", Target: "/v"}}},
		"an unknown type":   {Name: "n", Volumes: []VolumeMount{{Name: "v", Target: "/v", Type: "nfs"}}},
		"a relative target": {Name: "n", Volumes: []VolumeMount{{Name: "v", Target: "v"}}},
		"the root":          {Name: "n", Volumes: []VolumeMount{{Name: "v", Target: "/../"}}},
		"the workspace":     {Name: "n", Volumes: []VolumeMount{{Name: "v", Target: "/workspace/"}}},
		"the guest":         {Name: "n", Volumes: []VolumeMount{{Name: "v", Target: "/run/drawbridge/gate"}}},
		"a mount":           {Name: "n", Mounts: mount, Volumes: []VolumeMount{{Name: "v", Target: "/m"}}},
		"what is excluded":  {Name: "n", Mounts: mount, Volumes: []VolumeMount{{Name: "v", Target: "/m/hidden"}}},
		"twice":             {Name: "n", Volumes: []VolumeMount{{Name: "v", Target: "/v"}, {Name: "w", Target: "/v"}}},
		"too many":          {Name: "n", Volumes: slices.Repeat([]VolumeMount{{Name: "v", Target: "/v"}}, maxRunVolumes+1)},
	} {
		if run, err := m.Create(t.Context(), opts); err == nil {
			t.Errorf("%s: made %+v", name, run)
		} else if AsError(err).Code == CodeRuntimeUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatIsExcludedIsReadByNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(func(o *ManagerOptions) { o.ForAgents = true })
	workspace := workspaceFor(t)
	writeFiles(t, workspace, map[string]string{
		"moat.yaml":   "mounts: [{source: ., target: /workspace, exclude: [secrets, .env, node_modules]}]\n",
		"secrets/key": "secret", ".env": "secret", "plain": "plain",
	})
	for link, to := range map[string]string{"link": "secrets", "dots": "../" + filepath.Base(workspace) + "/.env"} {
		if err := os.Symlink(to, filepath.Join(workspace, link)); err != nil {
			t.Fatal(err)
		}
	}
	run := w.started(m, Options{Workspace: workspace, Project: true, Interactive: true,
		Cmd: shell("cat secrets/* .env link/* dots plain; echo mine >secrets/mine; echo mine >node_modules/mine; echo; echo ready; read end")})
	eventually(t, "the run is ready", func() bool { return strings.Contains(output(t, m, run.ID), "ready") })
	if text := output(t, m, run.ID); strings.Contains(text, "secret\n") || strings.Contains(text, "secretplain") || !strings.Contains(text, "plain\nready") {
		t.Errorf("the run printed %q", text)
	}
	check := func(when string, want map[string]string) {
		t.Helper()
		for name, want := range want {
			content, err := m.ReadFile(t.Context(), run.ID, name, 0, 0)
			if got := dataOf(content); got != want || (err != nil) != (want == "") {
				t.Errorf("%s, %s is %q, %v; want %q", when, name, got, err, want)
			}
		}
	}
	if !slices.Equal(run.Exclude, []string{"secrets", ".env", "node_modules"}) {
		t.Errorf("it says that it excludes %v", run.Exclude)
	}
	check("while it runs", map[string]string{"plain": "plain", "secrets/mine": "mine\n", "node_modules/mine": "mine\n", "secrets/key": "", "link/key": ""})
	if _, err := m.WriteFile(t.Context(), run.ID, "secrets/key", []byte("new"), WriteOptions{}); err != nil {
		t.Error(err)
	}
	if err := m.Stop(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	check("after its end", map[string]string{"plain": "plain", "secrets/mine": "", "secrets/key": "", "secrets/../secrets/key": "", ".env": "", "link/key": "", "dots": ""})
	for _, name := range []string{"secrets/key", ".env", "link/key", "link", "node_modules/x"} {
		if _, err := m.WriteFile(t.Context(), run.ID, name, []byte("new"), WriteOptions{Append: true}); AsError(err).Code != CodePolicyDenied {
			t.Errorf("write %s: %v", name, err)
		}
	}
	for name, want := range map[string]string{"secrets/key": "secret", ".env": "secret"} {
		if data, err := os.ReadFile(filepath.Join(workspace, name)); err != nil || string(data) != want {
			t.Errorf("on the host %s is %q, %v", name, data, err)
		}
	}
	// What another process has put into the place of something that is hidden leads nowhere.
	if err := os.Rename(filepath.Join(workspace, "secrets"), filepath.Join(workspace, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("moved", filepath.Join(workspace, "secrets")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Create(t.Context(), Options{Workspace: workspace, Project: true}); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("with a link in its place: %v", err)
	}
}

func dataOf(content *FileContent) string {
	if content == nil {
		return ""
	}
	return string(content.Data)
}

func TestMountsOfTheWorkspaceItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	workspace := workspaceFor(t)
	for text, code := range map[string]Code{
		"mounts: [{source: ., target: /workspace, exclude: ['*.env']}]\n":               CodeInvalidArgument,
		"mounts: [{source: ., target: /workspace, mode: ro}]\n":                         CodeUnsupported,
		"mounts: [{source: " + t.TempDir() + ", target: /workspace}]\n":                 CodeInvalidArgument,
		"mounts: [{source: none, target: /workspace}]\n":                                CodeInvalidArgument,
		"mounts: [{source: ., target: /m, exclude: [a" + manyPaths(maxExcludes) + "]}]": CodeInvalidArgument,
		"container: {ulimits: {core: {soft: 0, hard: -1}}}\n":                           CodeInvalidArgument,
		"container: {dns: [1.1.1.1]}\n":                                                 CodeUnsupported,
	} {
		writeFiles(t, workspace, map[string]string{"moat.yaml": text})
		if run, err := m.Create(t.Context(), Options{Workspace: workspace, Project: true}); AsError(err) == nil || AsError(err).Code != code {
			t.Errorf("%s: %+v, %v; want %s", text, run, err, code)
		}
	}
	writeFiles(t, workspace, map[string]string{"moat.yaml": "mounts: [{source: ., target: /workspace, exclude: [a]}]\ncontainer: {ulimits: {nofile: {soft: 64, hard: 65}, cpu: {soft: 7, hard: 8}}}\n"})
	got := w.ran(m, Options{Workspace: workspace, Project: true, Ulimits: []runtime.Ulimit{{Name: "cpu", Soft: 9, Hard: 9}}, Cmd: shell("ulimit -Sn; ulimit -Hn; ulimit -t; ls")})
	if got != "64\n65\n9\na\nmoat.yaml\n" {
		t.Errorf("it printed %q", got)
	}
}

func manyPaths(n int) string {
	return strings.Repeat(", b", n) // the parser refuses none of them
}
