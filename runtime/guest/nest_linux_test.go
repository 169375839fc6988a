package guest

import (
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// What is made of these is tested with a real engine, in package manager.

func TestNestNeedsToKnowWhatItIsFor(t *testing.T) {
	t.Parallel()
	for _, options := range []map[string]string{
		{}, {"listen": "127.0.0.1:0", "socket": "/s"}, {"listen": "127.0.0.1:80"}, {"listen": "docker:80", "socket": "/s"},
	} {
		if code := nestMain(options, []string{"true"}); code != link.CodeSetup {
			t.Errorf("%v: code %d", options, code)
		}
	}
	if code := nestedMain(nil, []string{"true"}); code != link.CodeSetup {
		t.Errorf("outside of a nest: code %d", code)
	}
}

func TestTokenStaysOutOfANest(t *testing.T) {
	t.Parallel()
	env := []string{"A=b", link.NestToken + "=token", "HOME=/run/engine"}
	if got := nestEnv(env); !slices.Equal(got, []string{"A=b", "HOME=/run/engine"}) || len(env) != 3 || env[1] == "" {
		t.Errorf("the engine has %q of %q", got, env)
	}
}

func TestListenerOfANestIsHandedOver(t *testing.T) {
	t.Parallel()
	pair := func() [2]int {
		ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return ends
	}
	ended := pair()
	_ = unix.Close(ended[1])
	defer unix.Close(ended[0])
	if _, err := receiveListener(ended[0]); err == nil {
		t.Error("a nest that has ended has sent a listener")
	}
	silent := pair()
	defer unix.Close(silent[0])
	if err := unix.Sendmsg(silent[1], []byte{0}, nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(silent[1])
	if _, err := receiveListener(silent[0]); err == nil {
		t.Error("a word without a listener is taken for one")
	}
}

func TestPingTellsWhetherAnEngineAnswers(t *testing.T) {
	t.Parallel()
	status := http.StatusOK
	for _, test := range []struct{ status, want int }{{http.StatusOK, 0}, {http.StatusServiceUnavailable, link.CodeSetup}} {
		socket := filepath.Join(t.TempDir(), "s")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		status = test.status
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "OK")
		})}
		go func() { _ = server.Serve(listener) }()
		if code := pingMain(map[string]string{"socket": socket}); code != test.want {
			t.Errorf("status %d: code %d", test.status, code)
		}
		_ = server.Close()
	}
	if code := pingMain(map[string]string{"socket": "/not/there"}); code != link.CodeSetup {
		t.Errorf("without an engine: code %d", code)
	}
}

// A port counts as served only where the network of the container reaches it.
func TestPingOfAPort(t *testing.T) {
	t.Parallel()
	everywhere, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(everywhere.Addr().(*net.TCPAddr).Port)
	want := link.CodeSetup // on a machine with loopback alone
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if at, isNet := a.(*net.IPNet); isNet && !at.IP.IsLoopback() && at.IP.To4() != nil {
			want = 0
		}
	}
	if code := pingMain(map[string]string{"port": port}); code != want {
		t.Errorf("what listens everywhere: code %d, want %d", code, want)
	}
	if err := everywhere.Close(); err != nil {
		t.Fatal(err)
	}
	if code := pingMain(map[string]string{"port": port}); code != link.CodeSetup {
		t.Errorf("what has ended: code %d", code)
	}
	local, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if code := pingMain(map[string]string{"port": strconv.Itoa(local.Addr().(*net.TCPAddr).Port)}); code != link.CodeSetup {
		t.Errorf("what listens on loopback: code %d", code)
	}
}
