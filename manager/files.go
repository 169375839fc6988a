package manager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// FileContent is a part of a file in a sandbox.
type FileContent struct {
	Path      string // absolute, in the sandbox
	Data      []byte
	Size      int64 // of the whole file
	Offset    int64 // of Data
	Truncated bool  // the file goes on after Data
}

// FileInfo is a file in a sandbox.
type FileInfo struct {
	Path string // absolute, in the sandbox
	Size int64
}

// WriteOptions configures a WriteFile.
type WriteOptions struct {
	Mode       fs.FileMode // of a new file; zero is 0644. Set-uid, set-gid and sticky bits are refused
	CreateDirs bool        // make missing directories
	Append     bool        // write after what is there, instead of replacing it
}

// ReadFile reads a file as the sandbox sees it: limit bytes from offset on, at
// most MaxFileBytes; zero means that. A relative path is below the workspace.
// The workspace can be read in every state of the run; other files while it
// runs.
func (m *Manager) ReadFile(ctx context.Context, runID, name string, offset, limit int64) (*FileContent, error) {
	content, err := m.readFile(ctx, runID, name, offset, limit)
	return content, wrapf(err, "read %s in %s", name, runID)
}

func (m *Manager) readFile(ctx context.Context, runID, name string, offset, limit int64) (*FileContent, error) {
	if limit == 0 {
		limit = MaxFileBytes
	}
	if offset < 0 || limit < 0 || limit > MaxFileBytes {
		return nil, failf(CodeInvalidArgument, fmt.Sprintf("read at most %d bytes at a time", MaxFileBytes), "%d bytes from %d are out of range", limit, offset)
	}
	target, err := sandboxPath(name)
	if err != nil {
		return nil, err
	}
	below, inWorkspace := workspacePath(target)
	if !inWorkspace {
		return m.readInSandbox(ctx, runID, target, offset, limit)
	}
	run, err := m.get(ctx, runID)
	if err != nil {
		return nil, err
	}
	if run.sees() {
		return m.readInSandbox(ctx, runID, target, offset, limit)
	}
	root, err := os.OpenRoot(run.WorkspaceDir())
	if err != nil {
		return nil, fileError(err)
	}
	defer root.Close()
	if err := run.checkVisible(root, below); err != nil {
		return nil, err
	}
	// Non-blocking, so that a named pipe put there by the run holds nobody.
	file, err := root.OpenFile(below, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileError(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fileError(err)
	}
	if !info.Mode().IsRegular() {
		return nil, failf(CodeInvalidArgument, "name a regular file; exec with ls shows what is there", "it is not a regular file but %s", kindOf(info.Mode()))
	}
	data, err := io.ReadAll(io.NewSectionReader(file, offset, limit))
	if err != nil {
		return nil, fileError(err)
	}
	return &FileContent{Path: target, Data: data, Size: info.Size(), Offset: offset, Truncated: offset+int64(len(data)) < info.Size()}, nil
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// sandboxPath makes a path absolute in the sandbox.
func sandboxPath(name string) (string, error) {
	if name == "" || strings.ContainsRune(name, 0) || len(name) > 4096 {
		return "", failf(CodeInvalidArgument, "name a file, absolute or below the workspace", "the path is empty, too long, or contains a NUL byte")
	}
	if !path.IsAbs(name) {
		name = path.Join(runtime.WorkspacePath, name)
	}
	return path.Clean(name), nil
}

// workspacePath returns the path below the workspace, if that is where it is.
func workspacePath(target string) (string, bool) {
	if target == runtime.WorkspacePath {
		return ".", true
	}
	below, ok := strings.CutPrefix(target, runtime.WorkspacePath+"/")
	return filepath.FromSlash(below), ok
}

// readInSandbox reads a file through the guest program in a running sandbox,
// with the rights of the run's own user.
func (m *Manager) readInSandbox(ctx context.Context, runID, target string, offset, limit int64) (*FileContent, error) {
	var stdout bytes.Buffer
	reply, err := m.guestFile(ctx, runID, nil, &stdout, "read", "--offset", strconv.FormatInt(offset, 10), "--limit", strconv.FormatInt(limit, 10), "--", target)
	if err != nil {
		return nil, err
	}
	size, err := strconv.ParseInt(reply, 10, 64)
	if err != nil || int64(stdout.Len()) > limit {
		return nil, failf(CodeInternal, "", "the sandbox answered with something that is not a file")
	}
	return &FileContent{Path: target, Data: stdout.Bytes(), Size: size, Offset: offset, Truncated: offset+int64(stdout.Len()) < size}, nil
}

// guestFile runs a file command of the guest program. The program prints the
// file to its output, and the size, or what is wrong, to its error output.
func (m *Manager) guestFile(ctx context.Context, runID string, stdin io.Reader, stdout io.Writer, args ...string) (string, error) {
	said := newHeadTail(4 << 10)
	result, err := m.ExecAttached(ctx, runID, runtime.ExecSpec{
		Command: append([]string{runtime.GuestPath}, args...),
		Timeout: fileTimeout, Stdin: stdin, Stdout: &cappedWriter{w: stdout, left: MaxFileBytes + 1}, Stderr: said,
	})
	if err != nil {
		return "", err
	}
	reply := strings.TrimSpace(string(said.output().Head))
	if result.Code != 0 {
		code := CodeInvalidArgument
		if strings.HasSuffix(reply, syscall.ENOENT.Error()) {
			code = CodeNotFound
		}
		return "", failf(code, "exec with ls shows what is there", "the sandbox says: %s", reply)
	}
	return reply, nil
}

// cappedWriter drops what goes beyond a bound: the sandbox is not trusted to
// keep to what it was asked for.
type cappedWriter struct {
	w    io.Writer
	left int
}

func (c *cappedWriter) Write(p []byte) (int, error) {
	n := len(p)
	p = p[:min(len(p), c.left)]
	c.left -= len(p)
	if c.w != nil && len(p) > 0 {
		if _, err := c.w.Write(p); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// WriteFile writes a file as the sandbox sees it and returns what is there
// afterwards. A file that exists keeps its mode; a replaced one is never seen
// half written. A new file belongs to the workspace's owner.
func (m *Manager) WriteFile(ctx context.Context, runID, name string, data []byte, opts WriteOptions) (*FileInfo, error) {
	info, err := m.writeFile(ctx, runID, name, data, opts)
	return info, wrapf(err, "write %s in %s", name, runID)
}

func (m *Manager) writeFile(ctx context.Context, runID, name string, data []byte, opts WriteOptions) (*FileInfo, error) {
	if len(data) > MaxFileBytes {
		return nil, failf(CodeInvalidArgument, "write it in parts with append", "%d bytes are over the limit of %d", len(data), MaxFileBytes)
	}
	if opts.Mode == 0 {
		opts.Mode = 0o644
	}
	if opts.Mode&^fs.ModePerm != 0 {
		return nil, failf(CodeInvalidArgument, "use permission bits only, e.g. 0755", "the mode %v is out of range", opts.Mode)
	}
	target, err := sandboxPath(name)
	if err != nil {
		return nil, err
	}
	below, inWorkspace := workspacePath(target)
	if !inWorkspace {
		return m.writeInSandbox(ctx, runID, target, data, opts)
	}
	if below == "." {
		return nil, failf(CodeInvalidArgument, "name a file below it", "the path is the workspace itself")
	}
	run, err := m.get(ctx, runID)
	if err != nil {
		return nil, err
	}
	if run.sees() {
		return m.writeInSandbox(ctx, runID, target, data, opts)
	}
	root, err := os.OpenRoot(run.WorkspaceDir())
	if err != nil {
		return nil, fileError(err)
	}
	defer root.Close()
	if err := run.checkVisible(root, below); err != nil {
		return nil, err
	}
	size, err := writeBelow(root, below, data, opts)
	if err != nil {
		return nil, fileError(err)
	}
	return &FileInfo{Path: target, Size: size}, nil
}

func (m *Manager) writeInSandbox(ctx context.Context, runID, target string, data []byte, opts WriteOptions) (*FileInfo, error) {
	args := []string{"write", "--mode", strconv.FormatUint(uint64(opts.Mode), 8)}
	if opts.CreateDirs {
		args = append(args, "--parents")
	}
	if opts.Append {
		args = append(args, "--append")
	}
	reply, err := m.guestFile(ctx, runID, bytes.NewReader(data), nil, append(args, "--", target)...)
	if err != nil {
		return nil, err
	}
	size, err := strconv.ParseInt(reply, 10, 64)
	if err != nil {
		return nil, failf(CodeInternal, "", "the sandbox answered with something that is not a size")
	}
	return &FileInfo{Path: target, Size: size}, nil
}

// writeBelow writes a file in a directory that a run can write too, and never
// leaves it: os.Root resolves each link below the directory or refuses it.
func writeBelow(root *os.Root, name string, data []byte, opts WriteOptions) (int64, error) {
	owner := ownerOf(root)
	if opts.CreateDirs {
		if err := makeDirs(root, filepath.Dir(name), owner); err != nil {
			return 0, err
		}
	}
	if opts.Append {
		return appendBelow(root, name, data, opts.Mode, owner)
	}
	mode := opts.Mode
	if info, err := root.Stat(name); err == nil {
		if !info.Mode().IsRegular() {
			return 0, fmt.Errorf("it is not a regular file but %s", kindOf(info.Mode()))
		}
		mode = info.Mode().Perm()
	}
	if link, err := root.Readlink(name); err == nil {
		return 0, fmt.Errorf("it is a symbolic link to %s; write there", link)
	}
	temporary := name + ".drawbridge-" + newRunID()[len(runIDPrefix):]
	file, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return 0, err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Chmod(mode), owner.own(file), file.Close())
	if err == nil {
		err = root.Rename(temporary, name)
	}
	if err != nil {
		return 0, errors.Join(err, root.Remove(temporary))
	}
	return int64(len(data)), nil
}

func appendBelow(root *os.Root, name string, data []byte, mode fs.FileMode, owner owner) (int64, error) {
	_, statErr := root.Lstat(name)
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, mode)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("it is not a regular file but %s", kindOf(info.Mode()))
	}
	if errors.Is(statErr, fs.ErrNotExist) {
		if err := owner.own(file); err != nil {
			return 0, err
		}
	}
	if _, err := file.Write(data); err != nil {
		return 0, err
	}
	info, err = file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// makeDirs makes dir and its missing parents, each owned like the workspace.
func makeDirs(root *os.Root, dir string, owner owner) error {
	if dir == "." {
		return nil
	}
	if err := makeDirs(root, filepath.Dir(dir), owner); err != nil {
		return err
	}
	err := root.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	made, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer made.Close()
	return owner.own(made)
}

// owner is whom new files in a workspace belong to. It is zero where this
// process cannot give files away, which then are its own.
type owner struct {
	uid, gid int
	known    bool
}

func ownerOf(root *os.Root) owner {
	info, err := root.Stat(".")
	if err != nil || os.Geteuid() != 0 {
		return owner{}
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return owner{}
	}
	return owner{uid: int(stat.Uid), gid: int(stat.Gid), known: true}
}

func (o owner) own(file *os.File) error {
	if !o.known {
		return nil
	}
	return file.Chown(o.uid, o.gid)
}

// fileError classifies an error of the file system for a caller who named a
// file.
func fileError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Error{Code: CodeNotFound, Message: "no such file", Next: "exec with ls, or set create_dirs for a new file", cause: err}
	case errors.Is(err, fs.ErrPermission):
		return &Error{Code: CodePolicyDenied, Message: "permission denied", cause: err}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return err
	}
	return &Error{Code: CodeInvalidArgument, Message: err.Error(), cause: err}
}
