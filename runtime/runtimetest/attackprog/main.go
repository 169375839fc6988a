//go:build linux

// Command attackprog attacks the host from inside a sandbox. It is the inside half
// of the isolation suite of package runtimetest: called with the name of a group,
// it makes the attacks of that group and prints one line for each,
//
//	NAME: refused (ERROR)
//	NAME: SUCCEEDED (what it got)
//
// and judges nothing: which line is right is in the suite's table. What an attack
// has to know of the host, such as the path of a file that it should not be able
// to read, is in a file that the suite writes into the workspace once the sandbox
// runs.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	workspace = "/workspace"
	factsFile = workspace + "/facts.json"
	// factsWait bounds the wait for the suite's file on a busy machine.
	factsWait = 30 * time.Second
	factsLook = 5 * time.Millisecond
)

// facts is what the suite tells of the host.
type facts struct {
	Token    string   // content of every file and answer of every server of the host
	Canary   string   // path on the host of a file that everybody there may read
	Secret   string   // the same of root's own
	RunFiles []string // paths on the host of what the driver keeps of this run
	Handle   []byte   // file handle of Canary; empty where its file system has none
	Type     int32    // type of Handle
	Device   uint64   // number of a disk of the host

	Process int    // ID of a process of the host that belongs to the sandbox's user
	Marker  string // in that process's command line, and in no other

	TCP, UDP []string // addresses of servers of the host
	Abstract string   // name of an abstract Unix socket of the host
	Sockets  []string // paths of Unix sockets of the host outside the workspace

	Host map[string]string // what the host is like, by the name of the check that tells it
}

// attack is one attempt. do returns what it got, or the error that refused it.
type attack struct {
	name string
	do   func() (got string, err error)
}

// group returns the attacks of one group.
type group func(facts) []attack

var groups = map[string]group{
	"Files":      files,
	"Processes":  processes,
	"Network":    network,
	"Kernel":     kernel,
	"Privileges": privileges,
	"Guest":      guest,
	"Kill":       guestKilled,
	"Terminal":   terminal,
	"Resources":  resources,
	"Facts":      hostFacts,
	"Owners":     owners,
}

func main() {
	descriptors := inherited()
	if len(os.Args) < 2 {
		fail(errors.New("usage: attackprog GROUP | attackprog HELPER [ARGUMENT...]"))
	}
	if help, ok := helpers[os.Args[1]]; ok {
		help(os.Args[2:])
		return
	}
	attacks, ok := groups[os.Args[1]]
	if !ok {
		fail(fmt.Errorf("unknown group %s", os.Args[1]))
	}
	f, err := awaitFacts()
	if err != nil {
		fail(err)
	}
	list := attacks(f)
	if os.Args[1] == "Files" {
		list = append(list, attack{"inherit a descriptor", func() (string, error) { return found(descriptors) }})
	}
	for _, a := range list {
		report(a)
	}
	if os.Args[1] == "Processes" {
		// Every process that can be signalled; the suite looks whether its
		// own is still there.
		_ = unix.Kill(-1, unix.SIGKILL)
	}
}

func report(a attack) {
	got, err := a.do()
	if err != nil {
		fmt.Printf("%s: refused (%s)\n", a.name, describe(err))
		return
	}
	fmt.Printf("%s: SUCCEEDED (%s)\n", a.name, oneLine(got))
}

// describe returns the name of an error number where there is one.
func describe(err error) string {
	if number, ok := errors.AsType[unix.Errno](err); ok {
		if name := unix.ErrnoName(number); name != "" {
			return name
		}
	}
	return oneLine(err.Error())
}

// oneLine returns the beginning of a text without line ends.
func oneLine(text string) string {
	const enough = 300
	return strings.NewReplacer("\n", " ", "\x00", " ").Replace(text[:min(len(text), enough)])
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "attackprog:", err)
	os.Exit(99)
}

// awaitFacts reads what the suite tells, once it has.
func awaitFacts() (facts, error) {
	var f facts
	for end := time.Now().Add(factsWait); ; time.Sleep(factsLook) {
		data, err := os.ReadFile(factsFile)
		if err == nil {
			err = json.Unmarshal(data, &f)
			return f, err
		}
		if time.Now().After(end) {
			return f, fmt.Errorf("wait for what the suite tells: %w", err)
		}
	}
}

// errNothing refuses an attack that was carried out and got nothing.
var errNothing = errors.New("nothing")

// found turns a list of what must not be there into a result.
func found(list []string) (string, error) {
	if len(list) == 0 {
		return "", errNothing
	}
	return strings.Join(list, ", "), nil
}

// done turns the error of an attempt that yields nothing into a result.
func done(err error) (string, error) { return "done", err }

// each makes several attempts at one thing. One that succeeds is enough; the
// error is that of the last.
func each[T any](over []T, do func(T) (string, error)) (string, error) {
	err := errNothing
	for _, one := range over {
		var got string
		if got, err = do(one); err == nil {
			return fmt.Sprintf("%v: %s", one, got), nil
		}
	}
	return "", err
}

// call makes a system call whose result does not matter.
func call(number uintptr, arguments ...uintptr) error {
	var a [6]uintptr
	copy(a[:], arguments)
	_, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return errno
	}
	return nil
}

// inherited lists the descriptors above the standard three that this program was
// started with. Those that it has opened by itself, as Go's runtime does, close on
// exec.
func inherited() []string {
	const most = 1024
	var list []string
	for fd := 3; fd < most; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			target = err.Error()
		}
		list = append(list, fmt.Sprintf("%d is %s", fd, target))
	}
	return list
}
