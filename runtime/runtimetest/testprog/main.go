//go:build linux

// Command testprog does inside a sandbox what the conformance suite needs and
// busybox cannot: it misbehaves in exact ways.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail("usage: testprog WHAT [ARGUMENT]")
	}
	argument := ""
	if len(os.Args) > 2 {
		argument = os.Args[2]
	}
	actions := map[string]func(string){
		"ignore-term": ignoreTerm,
		"on-term":     onTerm,
		"kill-self":   killSelf,
		"eat":         eat,
		"line":        line,
		"count":       count,
		"bytes":       everyByte,
		"crowd":       crowd,
		"orphan":      orphan,
		"ask":         ask,
		"echo":        echo,
		"serve":       serve,
		"http":        serveHTTP,
		"socket":      greetSocket,
		"sleep":       func(string) { time.Sleep(time.Hour) },
	}
	action, ok := actions[os.Args[1]]
	if !ok {
		fail("unknown action " + os.Args[1])
	}
	action(argument)
}

func fail(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(99)
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		fail(err.Error())
	}
	return n
}

const gateAddress = "127.0.0.1:3128"

func connect() *net.TCPConn {
	conn, err := net.DialTimeout("tcp", gateAddress, 10*time.Second)
	if err != nil {
		fmt.Println("no gate:", err)
		os.Exit(1)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn.(*net.TCPConn)
}

// ask sends its argument to the gate and prints what comes back.
func ask(text string) {
	conn := connect()
	_, _ = io.WriteString(conn, text)
	_ = conn.CloseWrite()
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		fail(err.Error())
	}
}

// echo sends bytes to a gate that sends them back, and checks them.
func echo(count string) {
	conn := connect()
	sent, received := sha256.New(), sha256.New()
	n := int64(number(count))
	go func() {
		_, _ = io.Copy(conn, io.TeeReader(io.LimitReader(rand.Reader, n), sent))
		_ = conn.CloseWrite()
	}()
	got, err := io.Copy(received, conn)
	fmt.Println(got, bytes.Equal(sent.Sum(nil), received.Sum(nil)), err)
}

// serve listens on a port of loopback. It says back what a client said, once that
// has ended its half.
func serve(port string) {
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		fail(err.Error())
	}
	fmt.Println("serving")
	for {
		conn, err := l.Accept()
		if err != nil {
			fail(err.Error())
		}
		go func() {
			defer conn.Close()
			said, _ := io.ReadAll(conn)
			_, _ = io.WriteString(conn, "you said ")
			_, _ = conn.Write(said)
		}()
	}
}

// serveHTTP serves HTTP on a port of loopback.
func serveHTTP(port string) {
	err := http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, "served "+req.URL.Path)
	}))
	fail(err.Error())
}

// ignoreTerm outlives SIGTERM.
func ignoreTerm(string) {
	signal.Ignore(syscall.SIGTERM)
	fmt.Println("ready")
	time.Sleep(time.Hour)
}

// onTerm ends with the given code on SIGTERM.
func onTerm(code string) {
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGTERM)
	fmt.Println("ready")
	<-got
	fmt.Println("terminated")
	os.Exit(number(code))
}

func killSelf(sig string) {
	signal.Reset()
	_ = syscall.Kill(os.Getpid(), syscall.Signal(number(sig)))
	time.Sleep(time.Hour)
}

// eat uses the given number of MiB.
func eat(mib string) {
	fmt.Println("eating")
	var kept [][]byte
	for range number(mib) {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		kept = append(kept, block)
	}
	fmt.Println("full", len(kept))
}

// line prints one line of the given number of bytes.
func line(size string) {
	out := bufio.NewWriterSize(os.Stdout, 1<<16)
	for i := range number(size) {
		out.WriteByte('a' + byte(i%26))
	}
	out.WriteByte('\n')
	out.Flush()
}

// count prints the given number of lines on either stream in turn.
func count(n string) {
	for i := range number(n) {
		if i%2 == 0 {
			fmt.Fprintf(os.Stdout, "out %d\n", i)
		} else {
			fmt.Fprintf(os.Stderr, "err %d\n", i)
		}
	}
}

// everyByte prints all 256 bytes, without a newline at the end.
func everyByte(string) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	os.Stdout.Write(all)
}

// crowd starts processes until it cannot, and says how many there were.
func crowd(limit string) {
	var started []*exec.Cmd
	for range number(limit) {
		c := exec.Command(os.Args[0], "sleep")
		if err := c.Start(); err != nil {
			fmt.Printf("refused after %d: %v\n", len(started), err)
			break
		}
		started = append(started, c)
	}
	fmt.Printf("started %d\n", len(started))
	for _, c := range started {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
}

// orphan leaves a process behind in a session of its own and ends.
func orphan(string) {
	c := exec.Command(os.Args[0], "sleep")
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		fail(err.Error())
	}
	fmt.Println("left behind")
}

// greetSocket says hello to a Unix socket and prints the answer.
func greetSocket(path string) {
	conn, err := net.DialTimeout("unix", path, 10*time.Second)
	if err != nil {
		fail(err.Error())
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		fail(err.Error())
	}
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		fail(err.Error())
	}
}
