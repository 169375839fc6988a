package manager

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func dockerIn(mode deps.DockerMode) deps.Dependency {
	return deps.Dependency{Name: deps.NameDocker, Type: deps.TypeDocker, DockerMode: mode}
}

func TestDockerDependencyIsFoundByItsName(t *testing.T) {
	t.Parallel()
	node := deps.Dependency{Name: "node", Version: "22"}
	for _, c := range []struct {
		name string
		list []deps.Dependency
		want *deps.Dependency
	}{
		{"no list", nil, nil},
		{"empty list", []deps.Dependency{}, nil},
		{"others only", []deps.Dependency{node, {Name: "docker-compose"}, {Name: "Docker"}}, nil},
		{"alone", []deps.Dependency{dockerIn(deps.DockerModeHost)}, &deps.Dependency{Name: "docker", Type: "docker", DockerMode: "host"}},
		{"the first of two", []deps.Dependency{node, dockerIn(deps.DockerModeDind), dockerIn(deps.DockerModeHost)}, &deps.Dependency{Name: "docker", Type: "docker", DockerMode: "dind"}},
	} {
		if diff := cmp.Diff(c.want, GetDockerDependency(c.list)); diff != "" {
			t.Errorf("%s: GetDockerDependency (-want +got):\n%s", c.name, diff)
		}
		if got := HasDockerDependency(c.list); got != (c.want != nil) {
			t.Errorf("%s: HasDockerDependency = %v", c.name, got)
		}
	}
}

func TestDockerDependencyPointsIntoTheList(t *testing.T) {
	t.Parallel()
	list := []deps.Dependency{{Name: "node"}, dockerIn(deps.DockerModeHost)}
	if GetDockerDependency(list) != &list[1] {
		t.Error("GetDockerDependency returned a copy")
	}
}

func TestDockerNeedsTheDockerRuntimeInBothModes(t *testing.T) {
	t.Parallel()
	host, dind := error(ErrDockerHostRequiresDockerRuntime{}), error(ErrDockerDindRequiresDockerRuntime{})
	for _, c := range []struct {
		runtime runtime.Type
		mode    deps.DockerMode
		want    error
	}{
		{runtime.TypeDocker, deps.DockerModeHost, nil},
		{runtime.TypeDocker, deps.DockerModeDind, nil},
		{runtime.TypeNative, deps.DockerModeHost, host},
		{runtime.TypeNative, deps.DockerModeDind, dind},
		{runtime.TypeApple, deps.DockerModeHost, host},
		{runtime.TypeApple, deps.DockerModeDind, dind},
		{runtime.TypeKubernetes, deps.DockerModeHost, host},
		{runtime.TypeKubernetes, deps.DockerModeDind, dind},
		{"", deps.DockerModeHost, host},
		{"podman", deps.DockerModeDind, dind},
	} {
		if err := ValidateDockerDependency(c.runtime, c.mode); !errors.Is(err, c.want) {
			t.Errorf("docker:%s on %q: %v, want %v", c.mode, c.runtime, err, c.want)
		}
		asked := 0
		config, err := resolveDocker([]deps.Dependency{dockerIn(c.mode)}, c.runtime, DockerSocketPath, func(string) (uint32, error) { asked++; return 1, nil })
		if !errors.Is(err, c.want) || (config == nil) != (c.want != nil) {
			t.Errorf("resolve docker:%s on %q: %v, %v, want error %v", c.mode, c.runtime, config, err, c.want)
		}
		if c.want != nil && asked > 0 {
			t.Errorf("resolve docker:%s on %q looked at the socket before it refused", c.mode, c.runtime)
		}
	}
}

func TestUnknownDockerModesAreRefused(t *testing.T) {
	t.Parallel()
	for _, mode := range []deps.DockerMode{"", "Host", "sidecar"} {
		for _, kind := range []runtime.Type{runtime.TypeDocker, runtime.TypeApple} {
			err := ValidateDockerDependency(kind, mode)
			if err == nil || !strings.Contains(err.Error(), "docker:host or docker:dind") {
				t.Errorf("mode %q on %s: %v, want an error that names the modes", mode, kind, err)
			}
		}
	}
}

func TestDockerErrorsAreToldApartAndNameTheirMend(t *testing.T) {
	t.Parallel()
	var host error = ErrDockerHostRequiresDockerRuntime{}
	var dind error = ErrDockerDindRequiresDockerRuntime{}
	if errors.Is(host, dind) || errors.Is(dind, host) {
		t.Error("the two errors match each other")
	}
	// The former name must go on working.
	var former ErrDockerRequiresDockerRuntime
	if !errors.As(host, &former) || errors.As(dind, &former) {
		t.Error("the former name does not mean docker:host")
	}
	for mode, err := range map[string]error{"docker:host": host, "docker:dind": dind} {
		if !strings.HasPrefix(err.Error(), mode) || !strings.Contains(err.Error(), "choose the runtime docker") {
			t.Errorf("%s: message %q", mode, err)
		}
	}
}

func TestResolvedDockerDependency(t *testing.T) {
	t.Parallel()
	gid := func(string) (uint32, error) { return 999, nil }
	fails := func(string) (uint32, error) { return 0, fs.ErrNotExist }
	for _, c := range []struct {
		name string
		list []deps.Dependency
		gid  func(string) (uint32, error)
		want *DockerDependencyConfig
		err  error
	}{
		{"none", []deps.Dependency{{Name: "node"}}, fails, nil, nil},
		{"host", []deps.Dependency{dockerIn(deps.DockerModeHost)}, gid, &DockerDependencyConfig{
			Mode: "host", GroupID: "999",
			SocketMount: runtime.MountConfig{Source: "/var/run/docker.sock", Target: "/var/run/docker.sock"},
		}, nil},
		{"host without a socket", []deps.Dependency{dockerIn(deps.DockerModeHost)}, fails, nil, fs.ErrNotExist},
		{"dind needs no socket", []deps.Dependency{dockerIn(deps.DockerModeDind)}, fails, &DockerDependencyConfig{Mode: "dind", Privileged: true}, nil},
		{"the greatest group", []deps.Dependency{dockerIn(deps.DockerModeHost)}, func(string) (uint32, error) { return 1<<32 - 1, nil }, &DockerDependencyConfig{
			Mode: "host", GroupID: "4294967295",
			SocketMount: runtime.MountConfig{Source: DockerSocketPath, Target: DockerSocketPath},
		}, nil},
	} {
		got, err := resolveDocker(c.list, runtime.TypeDocker, DockerSocketPath, c.gid)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestSocketGroupIsThatOfASocketOnly(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "gid") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	want := os.Getegid()
	if os.Geteuid() == 0 {
		want = 4242
		if err := os.Chown(socket, -1, want); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(socket, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{socket, link} {
		if got, err := socketGID(path); err != nil || int(got) != want {
			t.Errorf("socketGID(%s) = %d, %v, want %d", path, got, err, want)
		}
	}

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, dir} {
		if _, err := socketGID(path); err == nil || !strings.Contains(err.Error(), "is not a socket") {
			t.Errorf("socketGID(%s): %v, want a refusal", path, err)
		}
	}
	if _, err := socketGID(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socketGID of nothing: %v, want fs.ErrNotExist", err)
	}
}

func TestDockerSocketOfThisMachine(t *testing.T) {
	t.Parallel()
	info, err := os.Stat(DockerSocketPath)
	gid, gidErr := GetDockerSocketGID()
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		if gidErr == nil {
			t.Errorf("GetDockerSocketGID() = %d where there is no socket", gid)
		}
		return
	}
	if gidErr != nil {
		t.Errorf("GetDockerSocketGID(): %v", gidErr)
	}
}
