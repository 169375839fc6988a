//go:build linux

package runtimetest

import (
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sandboxUser is the user of the suite's processes on the host where it may choose
// one: the same that a command has whose workspace belongs to root, so that
// nothing but name spaces is between the two.
const sandboxUser = 1000

// stage is what of the host the attacks are after: a directory with a workspace
// and, beside it, what must not be reached from inside.
type stage struct {
	dir       string // everybody may read it
	workspace string
	mounted   string // directory that sandboxes have read-only
	facts     factsOfHost
}

func newStage(t *testing.T) *stage {
	t.Helper()
	// Not t.TempDir: its parent is closed to others, and would protect what
	// the sandbox has to.
	dir, err := os.MkdirTemp("", "iso")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	st := &stage{
		dir: dir, workspace: filepath.Join(dir, "workspace"), mounted: filepath.Join(dir, "mounted"),
		facts: factsOfHost{Token: "token-" + rand.Text(), Canary: filepath.Join(dir, "canary"), Secret: filepath.Join(dir, "secret")},
	}
	token := []byte(st.facts.Token + "\n")
	canary := st.facts.Canary
	if err := errors.Join(
		os.Mkdir(st.workspace, 0o755),
		os.Mkdir(st.mounted, 0o755),
		os.WriteFile(canary, token, 0o644),
		os.WriteFile(st.facts.Secret, token, 0o600),
		os.WriteFile(filepath.Join(st.workspace, "file"), token, 0o644),
		os.WriteFile(filepath.Join(st.mounted, "file"), token, 0o644),
		os.Symlink(canary, filepath.Join(st.workspace, "host-absolute")),
		os.Symlink("../canary", filepath.Join(st.workspace, "host-relative")),
		os.Symlink(dir, filepath.Join(st.workspace, "host-directory")),
		os.Symlink("/proc/1/root"+canary, filepath.Join(st.workspace, "host-proc")),
		// Permissions must not stand in the way of an attack.
		os.Chmod(dir, 0o777), os.Chmod(canary, 0o666), os.Chmod(st.mounted, 0o777), os.Chmod(filepath.Join(st.mounted, "file"), 0o666),
	); err != nil {
		t.Fatal(err)
	}
	if handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, canary, 0); err == nil {
		st.facts.Handle, st.facts.Type = handle.Bytes(), handle.Type()
	}
	st.facts.Device = diskOf(t, canary)
	return st
}

// diskOf returns the number of the disk that a file is on, or of one of the
// machine's where the file's has none of its own.
func diskOf(t *testing.T, path string) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	if unix.Major(stat.Dev) != 0 {
		return stat.Dev
	}
	for line := range strings.Lines(readOr(t, "/proc/partitions")) {
		fields := strings.Fields(line)
		if len(fields) != 4 {
			continue
		}
		major, err := strconv.ParseUint(fields[0], 10, 32)
		if minor, bad := strconv.ParseUint(fields[1], 10, 32); err == nil && bad == nil {
			return unix.Mkdev(uint32(major), uint32(minor))
		}
	}
	return unix.Mkdev(8, 0)
}

// readOr reads a file of the host's that need not be there.
func readOr(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
		t.Fatal(err)
	}
	return string(data)
}

// serve lets the host answer with the token, by every way that the attacks try.
func (st *stage) serve(t *testing.T) {
	t.Helper()
	for _, host := range append([]string{"127.0.0.1", "::1"}, otherAddresses(t)...) {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil && host == "::1" {
			continue // this machine has no IPv6
		}
		if err != nil {
			t.Fatal(err)
		}
		st.answer(t, listener)
		st.facts.TCP = append(st.facts.TCP, listener.Addr().String())
		st.facts.UDP = append(st.facts.UDP, st.answerDatagrams(t, host))
	}
	st.facts.Abstract = "drawbridge-" + rand.Text()
	for _, path := range []string{"@" + st.facts.Abstract, filepath.Join(st.dir, "host.sock"), filepath.Join(st.workspace, "host.sock")} {
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		st.answer(t, listener)
		if path[0] == '/' {
			if err := os.Chmod(path, 0o777); err != nil {
				t.Fatal(err)
			}
		}
	}
	host := filepath.Join(st.dir, "host.sock")
	st.facts.Sockets = []string{host, "/workspace/../host.sock", "/proc/1/root" + host, "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket"}
}

// answer says the token to whoever connects.
func (st *stage) answer(t *testing.T, listener net.Listener) {
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go st.reply(conn)
		}
	}()
}

// reply reads first: who hangs up before it has read resets the connection.
func (st *stage) reply(conn net.Conn) {
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(time.Second)) != nil {
		return
	}
	if _, err := conn.Read(make([]byte, 64)); err == nil {
		_, _ = io.WriteString(conn, st.facts.Token) // who hung up does not want it
	}
}

func (st *stage) answerDatagrams(t *testing.T, host string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 64)
		for {
			_, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo([]byte(st.facts.Token), from)
		}
	}()
	return conn.LocalAddr().String()
}

// asks returns what one of the stage's servers says.
func asks(network, address string) string {
	conn, err := net.DialTimeout(network, address, time.Second)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err.Error()
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		return err.Error()
	}
	buffer := make([]byte, 64)
	n, err := conn.Read(buffer)
	if err != nil {
		return err.Error()
	}
	return string(buffer[:n])
}

// runProcess starts a process of the host that the attacks are after.
func (st *stage) runProcess(t *testing.T) *exec.Cmd {
	t.Helper()
	st.facts.Marker = "marker-" + rand.Text()
	// A copy, because other users may not get to the cache.
	program := filepath.Join(st.dir, "process")
	copyProgram(t, Build(t, "./runtime/runtimetest/attackprog", "attackprog"), program, 0o755)
	cmd := exec.Command(program, "sleep", st.facts.Marker)
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: sandboxUser, Gid: sandboxUser}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	st.facts.Process = cmd.Process.Pid
	return cmd
}

// copyProgram copies a program that can be started at once: no other test starts a
// process meanwhile, which would have the copy open for writing until its exec.
func copyProgram(t *testing.T, from, to string, mode uint32) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		syscall.ForkLock.RLock()
		err = os.WriteFile(to, data, 0o755)
		syscall.ForkLock.RUnlock()
	}
	if err == nil {
		err = unix.Chmod(to, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// marked lists the processes of the host whose command line has a word.
func marked(t *testing.T, word string) []string {
	t.Helper()
	places, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, place := range places {
		if text, err := os.ReadFile(place); err == nil && strings.Contains(string(text), word) {
			list = append(list, place)
		}
	}
	return list
}
