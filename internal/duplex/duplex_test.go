package duplex

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"testing"
	"time"
)

// pair returns both ends of a connection.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialled.Close(); _ = accepted.Close() })
	for _, c := range []net.Conn{dialled, accepted} {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
	}
	return accepted.(*net.TCPConn), dialled.(*net.TCPConn)
}

// joined returns what is at the outer ends of two connections that are joined, and
// what tells the end of that.
func joined(t *testing.T, linger time.Duration) (client, server *net.TCPConn, ended <-chan struct{}) {
	t.Helper()
	a, client := pair(t)
	b, server := pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		join(a, b, linger)
	}()
	return client, server, done
}

func TestEachDirectionEndsByItself(t *testing.T) {
	t.Parallel()
	client, server, ended := joined(t, Linger)
	question, answer := make([]byte, 3<<20), make([]byte, 2<<20)
	_, _ = rand.Read(question)
	_, _ = rand.Read(answer)
	go func() {
		_, _ = client.Write(question)
		_ = client.CloseWrite()
	}()
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, question) {
		t.Fatalf("the server got %d bytes, %v", len(got), err)
	}
	select {
	case <-ended:
		t.Fatal("the end of one direction ended the other one")
	default:
	}
	go func() {
		_, _ = server.Write(answer)
		_ = server.CloseWrite()
	}()
	if got, err = io.ReadAll(client); err != nil || !bytes.Equal(got, answer) {
		t.Errorf("the client got %d bytes, %v", len(got), err)
	}
	<-ended
}

func TestAnEndThatFailsEndsBoth(t *testing.T) {
	t.Parallel()
	client, server, ended := joined(t, Linger)
	_ = server.SetLinger(0)
	_ = server.Close() // a reset
	if _, err := io.ReadAll(client); err != nil {
		t.Logf("the client sees %v", err) // an end or an error: both are one
	}
	<-ended
}

func TestForgottenHalfEnds(t *testing.T) {
	t.Parallel()
	client, server, ended := joined(t, 200*time.Millisecond)
	_ = client.CloseWrite()
	if got, err := io.ReadAll(server); err != nil || len(got) > 0 {
		t.Fatalf("the server got %q, %v", got, err)
	}
	<-ended // though the server never says anything
	if got, err := io.ReadAll(client); err != nil || len(got) > 0 {
		t.Errorf("the client got %q, %v", got, err)
	}
}

func TestWholeConnectionIsNotBounded(t *testing.T) {
	t.Parallel()
	client, server, ended := joined(t, time.Nanosecond)
	for range 3 {
		if _, err := io.WriteString(client, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	_ = client.Close()
	_ = server.Close()
	<-ended
}
