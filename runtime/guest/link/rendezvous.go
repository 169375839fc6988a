package link

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxFiles bounds the descriptors that come with a Start.
const maxFiles = 64

// maxStartArg is the greatest length of an argument that Linux accepts.
const maxStartArg = 128<<10 - 1

// Rendezvous is the one-shot socket on which a guest gets its orders.
type Rendezvous struct {
	path     string
	listener *os.File
}

// Listen binds the socket at path, which must not exist. Its mode is 0666,
// because the sandbox has another user: the directory has to be closed to
// others.
func Listen(path string) (*Rendezvous, error) {
	l, err := listen(path, 0o666)
	if err != nil {
		return nil, err
	}
	return &Rendezvous{path: path, listener: l}, nil
}

// ListenControl binds the control socket of a run at path, which must not exist,
// and returns its listener, for Files. Its mode is 0600.
func ListenControl(path string) (*os.File, error) { return listen(path, 0o600) }

// Close closes and unlinks the socket.
func (r *Rendezvous) Close() error {
	err := r.listener.Close()
	if rm := os.Remove(r.path); rm != nil && !os.IsNotExist(rm) {
		err = errors.Join(err, rm)
	}
	return err
}

// HandOver waits until the guest connects, sends it s and f, and waits until it
// has started the command; where s.WaitAttach is set, until it is ready to. An
// error that matches *CommandError says that the command could not be started.
func (r *Rendezvous) HandOver(ctx context.Context, s Start, f Files) error {
	s.Kept = false
	v, err := r.Await(ctx)
	if err != nil {
		return err
	}
	if err := v.handOver(ctx, s, append([]*os.File{f.Status, f.Control}, f.Segments...)); err != nil {
		return err
	}
	return v.Close()
}

// Visitor is a guest that has connected and waits for its orders. It ends when the
// connection does.
type Visitor struct {
	conn *Conn
}

// Await waits until the guest connects. The caller closes the Visitor, unless Keep
// has taken it.
func (r *Rendezvous) Await(ctx context.Context) (*Visitor, error) {
	defer bind(ctx, r.listener)()
	conn, err := accept(r.listener, 4<<10)
	if err != nil {
		return nil, handOverError(ctx, "it did not connect", err)
	}
	return &Visitor{conn: conn}, nil
}

// Close ends the guest.
func (v *Visitor) Close() error { return v.conn.Close() }

// Keep is Rendezvous.HandOver for a host that stays: the guest gets its control
// connections from the Keeper, and ends when the Keeper does. f.Control is not used.
// The Visitor is closed with an error, and belongs to the Keeper without one.
func (v *Visitor) Keep(ctx context.Context, s Start, f Files) (*Keeper, error) {
	s.Kept = true
	if err := v.handOver(ctx, s, append([]*os.File{f.Status}, f.Segments...)); err != nil {
		return nil, err
	}
	return &Keeper{conn: v.conn}, nil
}

func handOverError(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("hand over to guest: %s: %w", what, err)
}

// handOver returns when the guest has what it needs.
func (v *Visitor) handOver(ctx context.Context, s Start, files []*os.File) (err error) {
	conn := v.conn
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	wrap := func(what string, err error) error { return handOverError(ctx, what, err) }
	payload := s.encode()
	if len(s.Command) == 0 || len(payload) > MaxStart || len(files) > maxFiles {
		return fmt.Errorf("hand over to guest: command is empty, or arguments and environment exceed %d bytes", MaxStart)
	}
	defer bind(ctx, conn.file)()
	if err := sendFiles(conn.file, files); err != nil {
		return wrap("send files", err)
	}
	if err := conn.Send(KindStart, payload); err != nil {
		return wrap("send start", err)
	}
	for _, want := range []Kind{KindReady, KindStarted} {
		kind, data, err := conn.Receive(2 * MaxMessage)
		switch {
		case err != nil:
			return wrap("no answer from it", err)
		case kind == KindError:
			return fmt.Errorf("start command: %w", decodeError(data))
		case kind != want:
			return wrap("its answer", ErrProtocol)
		case s.WaitAttach:
			return nil
		}
	}
	return nil
}

// Keeper is the host's end of a hand-over that goes on. It is for one goroutine,
// except Close.
type Keeper struct {
	conn *Conn
}

// Serve accepts connections on a control socket, from ListenControl, and passes
// each on to the guest, until the guest is gone or the Keeper is closed.
func (k *Keeper) Serve(control *os.File) error {
	for {
		conn, err := accept(control, 0)
		if err != nil {
			return fmt.Errorf("accept a control connection: %w", err)
		}
		err = sendFiles(k.conn.file, []*os.File{conn.file})
		conn.Close() // the guest has its own
		if err != nil {
			return fmt.Errorf("pass a control connection on: %w", err)
		}
	}
}

// Gone returns when the guest has closed its end, or the Keeper was closed. It
// may run beside Serve.
func (k *Keeper) Gone() {
	for {
		// What the guest says after the hand-over, that the command has
		// started after all, its status says too.
		if _, _, err := k.conn.Receive(2 * MaxMessage); err != nil {
			return
		}
	}
}

// Close ends the guest.
func (k *Keeper) Close() error { return k.conn.Close() }

// sendFiles sends one byte that the files are attached to.
func sendFiles(socket *os.File, files []*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		// Fd would make the file blocking, for its owner too.
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return err
		}
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendmsg(int(fd), []byte{1}, unix.UnixRights(fds...), nil, 0)
		return sendErr != unix.EAGAIN
	})
	return errors.Join(err, sendErr)
}

// Meeting is the guest's end of a hand-over.
type Meeting struct {
	conn *Conn
	kept bool
}

// Meet connects to the host at path and returns what it hands over.
func Meet(ctx context.Context, path string) (*Meeting, Start, Files, error) {
	conn, err := connect(ctx, path, 4<<10)
	if err != nil {
		return nil, Start{}, Files{}, fmt.Errorf("connect to host: %w", err)
	}
	defer bind(ctx, conn.file)()
	files, err := receiveFiles(conn.file)
	if err == nil && len(files) < 2 {
		err = ErrProtocol
	}
	if err != nil {
		conn.Close()
		return nil, Start{}, Files{}, fmt.Errorf("receive files from host: %w", err)
	}
	kind, data, err := conn.Receive(MaxStart)
	if err == nil && kind != KindStart {
		err = ErrProtocol
	}
	var s Start
	if err == nil {
		s, err = decodeStart(data)
	}
	if err != nil {
		conn.Close()
		return nil, Start{}, Files{}, fmt.Errorf("receive start from host: %w", err)
	}
	m := &Meeting{conn: conn, kept: s.Kept}
	if s.Kept {
		return m, s, Files{Status: files[0], Segments: files[1:]}, nil
	}
	return m, s, Files{Status: files[0], Control: files[1], Segments: files[2:]}, nil
}

func receiveFiles(socket *os.File) ([]*os.File, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	var data [1]byte
	control := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, size := 0, 0
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		n, size, _, _, recvErr = unix.Recvmsg(int(fd), data[:], control, cloexecOnReceive)
		return recvErr != unix.EAGAIN
	})
	if err = errors.Join(err, recvErr); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(control[:size])
	if err != nil || n != 1 || len(messages) != 1 {
		return nil, errors.Join(ErrProtocol, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		files[i] = os.NewFile(uintptr(fd), "from host")
	}
	return files, nil
}

// Ready tells the host that the guest has what it needs.
func (m *Meeting) Ready() error { return m.conn.Send(KindReady) }

// Started tells the host that the command runs, or why it does not. It ends the
// meeting, unless that is kept.
func (m *Meeting) Started(err error) error {
	if !m.kept {
		defer m.conn.Close()
	}
	if err != nil {
		return m.conn.Send(KindError, EncodeError(err))
	}
	return m.conn.Send(KindStarted)
}

// Accept waits for the next control connection of a kept meeting. An error that
// matches ErrProtocol is about one connection; any other says that the host is
// gone.
func (m *Meeting) Accept() (*Conn, error) {
	files, err := receiveFiles(m.conn.file)
	if err != nil {
		return nil, fmt.Errorf("receive a control connection: %w", err)
	}
	return adopt(files)
}

// EncodeStart returns s as one argument of a program, for a guest that cannot be
// met.
func EncodeStart(s Start) (string, error) {
	arg := base64.RawURLEncoding.EncodeToString(s.encode())
	if len(arg) > maxStartArg {
		return "", fmt.Errorf("encode start: arguments and environment take %d bytes, this engine can pass %d; put long values into a file", len(arg), maxStartArg)
	}
	return arg, nil
}

// DecodeStart is the inverse of EncodeStart.
func DecodeStart(arg string) (Start, error) {
	b, err := base64.RawURLEncoding.DecodeString(arg)
	if err != nil {
		return Start{}, fmt.Errorf("decode start: %w", ErrProtocol)
	}
	return decodeStart(b)
}
