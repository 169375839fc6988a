package guest_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// answers serves on an address of loopback: it says back what it was told, once that
// has ended. The sandboxes of these tests have the network of the test.
func answers(t *testing.T, address string) (port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip("this machine has no ", address)
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
				said, _ := io.ReadAll(conn)
				_, _ = io.WriteString(conn, "you said "+string(said))
			}()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func (s *sandbox) connect(port uint16) *link.Stream {
	s.t.Helper()
	stream, err := s.dial().Connect(s.t.Context(), port)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = stream.Close() })
	_ = stream.SetDeadline(time.Now().Add(time.Minute))
	return stream
}

// ask sends words, ends its half and returns the answer.
func ask(t *testing.T, stream *link.Stream, words string) string {
	t.Helper()
	if _, err := io.WriteString(stream, words); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(stream)
	if err != nil {
		t.Error(err)
	}
	return string(answer)
}

func TestServersInASandboxAreReached(t *testing.T) {
	t.Parallel()
	s := mustStart(t, link.Start{Command: []string{"sleep", "1000"}})
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			words := strings.Repeat("0123456789abcdef", 1<<16)
			if got := ask(t, s.connect(answers(t, address)), words); got != "you said "+words {
				t.Errorf("%d bytes came back", len(got))
			}
		})
	}
}

func TestPortWithoutAServerIsRefused(t *testing.T) {
	t.Parallel()
	s := mustStart(t, link.Start{Command: []string{"sleep", "1000"}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	_ = l.Close()
	if stream, err := s.dial().Connect(t.Context(), port); !errors.Is(err, link.ErrPortRefused) {
		t.Errorf("got %v, %v", stream, err)
	}
	if stream, err := s.dial().Connect(t.Context(), 0); !errors.Is(err, link.ErrProtocol) {
		t.Errorf("port 0: got %v, %v", stream, err)
	}
}

func TestConnectionsToServersAreBoundedAndKeepNobodyOut(t *testing.T) {
	t.Parallel()
	s := mustStart(t, link.Start{Command: []string{"sleep", "1000"}})
	port := answers(t, "127.0.0.1:0")
	var open []*link.Stream
	for range link.MaxCarried {
		open = append(open, s.connect(port))
	}
	if stream, err := s.dial().Connect(t.Context(), port); err == nil || !strings.Contains(err.Error(), "no more are carried") {
		t.Errorf("one more: got %v, %v", stream, err)
	}
	if _, stdout, _, err := s.run(t.Context(), execShell("echo here"), nil); err != nil || stdout != "here\n" {
		t.Errorf("beside them: %q, %v", stdout, err)
	}
	for _, stream := range open[1:] {
		_ = stream.Close()
	}
	eventually(t, "room for another one", func() bool {
		stream, err := s.dial().Connect(t.Context(), port)
		if err == nil {
			_ = stream.Close()
		}
		return err == nil
	})
	if got := ask(t, open[0], "x"); got != "you said x" {
		t.Errorf("the first one says %q", got)
	}
}

func TestConnectionsToServersEndWithTheCommand(t *testing.T) {
	t.Parallel()
	s := mustStart(t, link.Start{Command: []string{"sleep", "1000"}})
	stream := s.connect(answers(t, "127.0.0.1:0"))
	if err := s.dial().Signal(t.Context(), 15); err != nil {
		t.Fatal(err)
	}
	s.wait()
	if got, err := io.ReadAll(stream); err != nil || len(got) > 0 {
		t.Errorf("got %q, %v", got, err)
	}
}
