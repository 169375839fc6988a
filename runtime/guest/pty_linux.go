package guest

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// defaultSize is that of a terminal nobody has sized.
var defaultSize = link.Size{Rows: 24, Cols: 80}

// openTerminal makes a terminal and returns both ends. The command gets the
// second.
func openTerminal(size link.Size) (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make terminal: %w", err)
	}
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	if size.Rows == 0 || size.Cols == 0 {
		size = defaultSize
	}
	if err := resize(master, size); err != nil {
		return nil, nil, err
	}
	err = control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		// The other end is opened by descriptor, not by its name in
		// /dev/pts, which an image might not have.
		peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno == 0 {
			slave = os.NewFile(peer, "terminal")
			return nil
		}
		number, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
		if err == nil {
			slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make terminal: %w", err)
	}
	return master, slave, nil
}

func resize(master *os.File, size link.Size) error {
	err := control(master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}

// control calls f with the descriptor of file, which stays non-blocking.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

// stdio is what a process has as its standard files, and the guest's ends.
type stdio struct {
	child  []*os.File // closed after the start
	stdin  *os.File   // nil where there is no input
	stdout *os.File
	stderr *os.File // nil with a terminal
	tty    bool
}

// newStdio makes pipes, or a terminal.
func newStdio(tty bool, size link.Size, interactive bool) (s *stdio, err error) {
	if tty {
		master, slave, err := openTerminal(size)
		if err != nil {
			return nil, err
		}
		return &stdio{child: []*os.File{slave, slave, slave}, stdin: master, stdout: master, tty: true}, nil
	}
	var files []*os.File
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	s = &stdio{}
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("make pipe: %w", err)
		}
		files = append(files, r, w)
	}
	s.child = []*os.File{files[0], files[3], files[5]}
	s.stdin, s.stdout, s.stderr = files[1], files[2], files[4]
	if interactive {
		return s, nil
	}
	s.stdin.Close() // the pipe is at its end at once
	s.stdin = nil
	if null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0); err == nil {
		s.child[0].Close()
		s.child[0] = null
	}
	return s, nil
}

// fds returns the child's descriptors, in blocking mode, as programs expect.
func (s *stdio) fds() []uintptr {
	return []uintptr{s.child[0].Fd(), s.child[1].Fd(), s.child[2].Fd()}
}

// closeChild closes the child's ends, so that the guest sees the end of output.
func (s *stdio) closeChild() {
	for _, f := range s.child {
		f.Close() // with a terminal all are one, and the second close is an error that says so
	}
}

// close closes the guest's ends.
func (s *stdio) close() {
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if f != nil {
			f.Close()
		}
	}
}
