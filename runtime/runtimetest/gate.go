package runtimetest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// gateStandIn is a listener in the place of the gate: it reads the first line of a
// connection, and says it together with what follows. It stands in for the gate
// because what is tested is the way to it.
type gateStandIn struct {
	dir string
}

const gateToken = "TOKENOFTHEGATE"

func (s *suite) newGate(t testing.TB) *gateStandIn {
	t.Helper()
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // the command's user has to get in
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, runtime.GateBundle), []byte("the authorities\n"), 0o644); err != nil { // it is public
		t.Fatal(err)
	}
	return &gateStandIn{dir: dir}
}

// listen serves the socket under a name, in the place of what was there.
func (g *gateStandIn) listen(t testing.TB, name string) {
	t.Helper()
	path := filepath.Join(g.dir, "gate.sock")
	l, err := net.Listen("unix", path+".new")
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(path+".new", 0o666); err != nil { // the command's user has to get in
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				line, err := r.ReadString('\n')
				if err != nil || line != "drawbridge "+gateToken+"\n" {
					fmt.Fprintf(conn, "%s has no token: %q", name, line)
					return
				}
				if first, _ := r.Peek(4); string(first) == "ask:" {
					fmt.Fprintf(conn, "%s was asked ", name)
				}
				_, _ = io.Copy(conn, r)
			}()
		}
	}()
}

func (s *suite) testGate(t *testing.T) {
	if !s.can.Gate {
		t.Run("refused", func(t *testing.T) {
			spec := s.spec(t, "true")
			spec.Gate = &runtime.Gate{Dir: s.newGate(t).dir, Token: gateToken}
			_, err := s.driver(t).Create(s.ctx(t), spec)
			WantError(t, "create with a gate", err, runtime.ErrUnsupported)
			if s.can.GateMend == "" || !strings.Contains(fmt.Sprint(err), s.can.GateMend) {
				t.Errorf("%v does not say what to do: %q", err, s.can.GateMend)
			}
		})
		return
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		exit, output := s.run(t, programPath, "ask", "ask:")
		if exit.Code != 1 || !strings.Contains(output, "no gate") {
			t.Errorf("without a gate: %+v, %q", exit, output)
		}
	})
	t.Run("reached", func(t *testing.T) {
		t.Parallel()
		gate := s.newGate(t)
		gate.listen(t, "the first")
		spec := s.spec(t, programPath, "sleep")
		spec.Gate = &runtime.Gate{Dir: gate.dir, Token: gateToken}
		b := s.start(t, spec)
		for command, want := range map[string]string{
			programPath + " ask ask:hello":                      "the first was asked ask:hello",
			programPath + " echo 8388608":                       "8388608 true <nil>\n",
			"cat " + runtime.GateDir + "/" + runtime.GateBundle: "the authorities\n",
			"touch " + runtime.GateDir + "/x || echo no":        "no\n",
		} {
			if got := b.exec(command); got != want {
				t.Errorf("%s: got %q, want %q", command, got, want)
			}
		}
		// Images need not have a place for it.
		if got := b.exec("[ ! -e " + runtime.SystemBundle + " ] || cat " + runtime.SystemBundle); got != "" && got != "the authorities\n" {
			t.Errorf("what programs trust is %q", got)
		}
		// The gate may come back, as another socket of the same name.
		gate.listen(t, "the second")
		if got := b.exec(programPath + " ask ask:again"); got != "the second was asked ask:again" {
			t.Errorf("after the gate was replaced: %q", got)
		}
		if err := os.Remove(filepath.Join(gate.dir, "gate.sock")); err != nil {
			t.Fatal(err)
		}
		if got := b.exec(programPath + " ask ask:gone"); got != "" {
			t.Errorf("without a gate at the other end: %q", got)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		t.Parallel()
		gate := s.newGate(t)
		gate.listen(t, "it")
		spec := s.spec(t, "/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do "+programPath+" echo 100000 & done; wait")
		spec.Gate = &runtime.Gate{Dir: gate.dir, Token: gateToken}
		b := s.start(t, spec)
		b.wait()
		if got := b.output(); strings.Count(got, "100000 true <nil>\n") != 16 {
			t.Errorf("got %q", got)
		}
	})
}

// exec runs a shell command in a sandbox and returns what it printed to its
// standard output.
func (b *sandbox) exec(command string) string {
	b.t.Helper()
	var out, problems bytes.Buffer
	_, err := b.driver.Exec(b.ctx, b.handle, runtime.ExecSpec{Command: []string{"/bin/sh", "-c", command}, Stdout: &out, Stderr: &problems})
	if err != nil {
		b.t.Fatalf("%s: %v: %s", command, err, problems.String())
	}
	return out.String()
}
