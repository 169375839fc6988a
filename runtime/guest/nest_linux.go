package guest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// A nest is a container in which an engine makes containers of its own. The engine is
// root in a user name space, whose users are nobody on the host, and has a network of
// its own without a way out. This program is outside of that, as the container's root
// with the few rights that making it takes:
//
//   - It makes the name spaces, and starts itself in them (nestedMain), which starts the
//     engine and reaps for it.
//   - It passes connections of the run on to the engine's socket.
//   - It passes connections of the engine, and of what is in its containers, on to the
//     run's gate, and puts the run's token before them, which stays out of the nest.

const (
	// nestFirst and nestUsers are the users of the host, and groups, that nests are
	// given: above those that distributions and systemd give to people and containers.
	nestFirst = 0x70000000
	nestUsers = 0x10000
	nestCount = 0x0ffe
	// nestStart bounds the time until the nest has its listener.
	nestStart = 30 * time.Second
	// nestControl is the descriptor in the nest whose other end is outside of it.
	nestControl = 3
)

// nestDirs are what the engine can write, and what has to be there for it.
var nestDirs = []string{"/run", "/etc/docker", "/var/lib/docker"}

// nestMain is PID 1 of the container.
func nestMain(options map[string]string, command []string) int {
	on, err := parseAddress(options["listen"])
	if err != nil || options["socket"] == "" || len(command) == 0 {
		return complain(errors.New(usage))
	}
	if err := harden(); err != nil {
		return complain(err)
	}
	n := &nest{gate: options["gate"], token: os.Getenv(link.NestToken)}
	if n.engine, err = newForwarder(on, hop{socket: options["socket"]}, ""); err != nil {
		return complain(fmt.Errorf("nest: %w", err))
	}
	code, err := n.run(command)
	if err != nil {
		return complain(fmt.Errorf("nest: %w", err))
	}
	return code
}

type nest struct {
	engine *forwarder
	gate   string // socket; empty for no way out
	token  string
}

// run makes the nest and returns what its end was.
func (n *nest) run(command []string) (int, error) {
	user, err := ownNest()
	if err != nil {
		return 0, err
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("connect with the nest: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "nest"), os.NewFile(uintptr(ends[1]), "outside")
	defer ours.Close()
	inside := append([]string{os.Args[0], "nested"}, nestedOptions(n.gate)...)
	users := []syscall.SysProcIDMap{{HostID: user, Size: nestUsers}}
	process, err := os.StartProcess("/proc/self/exe", append(append(inside, "--"), command...), &os.ProcAttr{ //nolint:gosec // whoever makes the container says what runs in it
		Env: nestEnv(os.Environ()), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
			UidMappings: users, GidMappings: users, GidMappingsEnableSetgroups: true,
			Credential: &syscall.Credential{},
			Pdeathsig:  syscall.SIGKILL,
		},
	})
	_ = theirs.Close()
	if err != nil {
		return 0, fmt.Errorf("make name spaces: %w; the kernel of the engine's host has to allow user name spaces (kernel.apparmor_restrict_unprivileged_userns=0, kernel.unprivileged_userns_clone=1, user.max_user_namespaces)", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	context.AfterFunc(ctx, func() { _ = unix.Shutdown(ends[0], unix.SHUT_WR) }) // the nest ends the engine
	if n.gate != "" {
		listener, err := receiveListener(ends[0])
		if err != nil {
			return 0, err
		}
		go forwarderFrom(listener, hop{socket: n.gate}, "drawbridge "+n.token+"\n").serve()
	}
	go n.engine.serve()
	return reapUntil(process.Pid)
}

// ownNest chooses users for a nest, gives them what the engine can write, and returns
// the first of them.
func ownNest() (int, error) {
	random := make([]byte, 2)
	_, _ = rand.Read(random) // it cannot fail
	user := nestFirst + int(binary.BigEndian.Uint16(random))%nestCount*nestUsers
	for _, dir := range nestDirs {
		if err := os.Chown(dir, user, user); err != nil {
			return 0, fmt.Errorf("give the nest a directory: %w", err)
		}
	}
	return user, nil
}

func nestedOptions(gate string) []string {
	if gate == "" {
		return nil
	}
	return []string{"--gate", gate}
}

// nestEnv is the environment of the engine, without the token.
func nestEnv(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(entry string) bool { return strings.HasPrefix(entry, link.NestToken+"=") })
}

// nestedMain is PID 1 of the nest, and ends with the engine.
func nestedMain(options map[string]string, command []string) int {
	if os.Getpid() != 1 || len(command) == 0 {
		return complain(errors.New("nested: is not PID 1 of a nest"))
	}
	closeOnExec()
	err := furnish()
	if err == nil && options["gate"] != "" {
		err = sendListener(nestControl)
	}
	if err != nil {
		return complain(fmt.Errorf("nested: %w", err))
	}
	process, err := startFound(command, os.Environ())
	if err != nil {
		return complain(fmt.Errorf("nested: %w", err))
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.NewFile(nestControl, "outside")) // until the container is to end
		_ = process.Signal(unix.SIGTERM)                               // it may have ended
	}()
	code, err := reapUntil(process.Pid)
	if err != nil {
		return complain(fmt.Errorf("nested: %w", err))
	}
	return code
}

// furnish makes what an engine expects of its name spaces.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts within the nest: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := os.MkdirAll(os.Getenv("HOME"), 0o700); err != nil {
		return fmt.Errorf("make the home of the engine: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	loopback, err := unix.NewIfreq("lo")
	if err == nil {
		loopback.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, loopback)
	}
	if err != nil {
		return fmt.Errorf("switch the loopback interface on: %w", err)
	}
	return nil
}

// sendListener listens in the nest's network and has whoever is outside serve that: on
// all addresses, so that containers find it at that of their bridge.
func sendListener(control int) error {
	f, err := newForwarder(netip.AddrPortFrom(netip.IPv4Unspecified(), forwardPort), hop{}, "")
	if err != nil {
		return err
	}
	defer f.listener.Close()
	if err := unix.Sendmsg(control, []byte{0}, unix.UnixRights(int(f.listener.Fd())), nil, 0); err != nil {
		return fmt.Errorf("hand over the listener: %w", err)
	}
	return nil
}

// receiveListener is the other end of sendListener.
func receiveListener(control int) (*os.File, error) {
	limit := unix.NsecToTimeval(int64(nestStart))
	if err := unix.SetsockoptTimeval(control, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, fmt.Errorf("bound the wait for the nest: %w", err)
	}
	word, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, size, _, _, err := unix.Recvmsg(control, word, rights, unix.MSG_CMSG_CLOEXEC)
	if err == nil && n == 0 {
		err = errors.New("it has ended; its log says why")
	}
	var messages []unix.SocketControlMessage
	if err == nil {
		messages, err = unix.ParseSocketControlMessage(rights[:size])
	}
	if err == nil && len(messages) != 1 {
		err = errors.New("it sent none")
	}
	var fds []int
	if err == nil {
		fds, err = unix.ParseUnixRights(&messages[0])
	}
	if err == nil {
		err = unix.SetNonblock(fds[0], true)
	}
	if err != nil {
		return nil, fmt.Errorf("take the listener of the nest: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "forwarder"), nil
}

// pingMain tells whether an engine answers at a socket, or, for a port, whether anything
// listens there for the network of the container.
func pingMain(options map[string]string) int {
	if port := options["port"]; port != "" {
		if err := pingPort(port); err != nil {
			return complain(fmt.Errorf("ping: %w", err))
		}
		return 0
	}
	socket := options["socket"]
	conn, err := hop{socket: socket}.dial()
	if err != nil {
		return complain(fmt.Errorf("ping: %w", err))
	}
	defer conn.Close()
	answer := make([]byte, 256)
	n := 0
	if err = conn.SetDeadline(time.Now().Add(pingWait)); err == nil {
		_, err = io.WriteString(conn, "GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
	}
	if err == nil {
		n, err = conn.Read(answer)
	}
	if status := strings.Fields(string(answer[:n])); err == nil && (len(status) < 2 || status[1] != "200") {
		err = fmt.Errorf("the engine answered %q", answer[:n])
	}
	if err != nil {
		return complain(fmt.Errorf("ping: %w", err))
	}
	return 0
}

// pingPort connects to a port at the addresses of this container by which others reach
// it: what listens on loopback alone serves nobody.
func pingPort(port string) error {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), pingWait)
	defer cancel()
	var dialer net.Dialer
	err = errors.New("the container has no address")
	for _, a := range addresses {
		at, isNet := a.(*net.IPNet)
		if !isNet || at.IP.IsLoopback() || at.IP.To4() == nil {
			continue
		}
		var conn net.Conn
		if conn, err = dialer.DialContext(ctx, "tcp", net.JoinHostPort(at.IP.String(), port)); err == nil {
			return conn.Close()
		}
	}
	return err
}

// pingWait bounds the wait for an answer.
const pingWait = 5 * time.Second
