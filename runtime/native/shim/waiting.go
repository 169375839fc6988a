//go:build linux

package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
)

// A sandbox that waits has been booted for no run in particular: its guest has
// connected and has no orders. What is mounted in it was fixed when it was booted, so
// what is of the run comes by the stage: a directory that is mounted into it and, in
// the name space of the runtime, shared. What is mounted there appears in the sandbox,
// and the guest puts it in its place.
//
// It is for one run, once. The shim ends it when its driver closes the pipe that jobs
// come by, and so at the latest when that process ends.

// errUnclaimed: nothing of the run was started, and another sandbox can be.
var errUnclaimed = errors.New("the sandbox that waited could not be used")

// staging asks the thread that has the stage to set it.
type staging struct {
	places []Place
	done   chan<- error
}

// startWaiting boots a sandbox, says so, and hands over when a run has come. With an
// error that is a *link.CommandError the guest is valid.
func (k *keeper) startWaiting(jobs *json.Decoder, out *os.File) (*guest, error) {
	if err := k.record(); err != nil {
		return nil, err
	}
	booting, cancel := context.WithTimeout(context.Background(), k.job.Within)
	defer cancel()
	b, err := k.boot(booting)
	if err == nil {
		err = k.settle(booting, b)
	}
	if err == nil {
		err = json.NewEncoder(out).Encode(report{})
	}
	if err != nil {
		return nil, err
	}
	job, err := k.awaitRun(b, jobs)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnclaimed, err)
	}
	ctx, done := context.WithTimeout(context.Background(), job.Within)
	defer done()
	if err := k.take(job); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnclaimed, err)
	}
	control, files, err := k.openRun()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnclaimed, err)
	}
	return k.handOver(ctx, b, control, files)
}

// settle returns when the runtime has left the sandbox to this process.
func (k *keeper) settle(ctx context.Context, b *sandbox) error {
	if b.runtime == nil {
		return nil
	}
	select {
	case s := <-b.runtime:
		b.runtime = nil
		if s.failed() {
			return fmt.Errorf("%s ended with %s: %s", filepath.Base(k.job.Runtime[0]), s, k.words)
		}
		return nil
	case <-k.aborted:
		return errAborted
	case <-ctx.Done():
		return ctx.Err()
	}
}

// awaitRun waits for the run, as long as there is somebody whom one could come from.
func (k *keeper) awaitRun(b *sandbox, jobs *json.Decoder) (*Job, error) {
	type arrival struct {
		job *Job
		err error
	}
	arrived := make(chan arrival, 1)
	go func() { // it ends with the pipe
		job, err := readJob(jobs)
		arrived <- arrival{job, err}
	}()
	select {
	case a := <-arrived:
		return a.job, a.err
	case s := <-b.ended:
		return nil, fmt.Errorf("it ended with %s: %s", s, k.words)
	case <-k.aborted:
		return nil, errAborted
	}
}

// take makes the sandbox that of the run.
func (k *keeper) take(job *Job) error {
	unlock, err := takeLock(job.Dir)
	if err != nil {
		return err
	}
	k.unlock = unlock
	if begun(job.Dir) {
		return errBegun
	}
	complaints, err := os.OpenFile(Log(job.Dir), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer complaints.Close()
	if err := unix.Dup3(int(complaints.Fd()), 2, 0); err != nil {
		return fmt.Errorf("move complaints to %s: %w", complaints.Name(), err)
	}
	booted := k.job
	k.job = job
	k.mu.Lock()
	k.notes.Booted = booted.Dir
	err = k.note()
	k.mu.Unlock()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	k.stage <- staging{job.Places, done}
	return <-done
}

// stageFlags are those of everything on a stage.
const stageFlags = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// makeStage mounts a stage with its empty places in the name space of this thread. It
// is read-only; what is mounted on it need not be.
func makeStage(stage string, places []Place) error {
	if err := unix.Mount("stage", stage, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
		return fmt.Errorf("mount a stage: %w", err)
	}
	for _, p := range places {
		if err := makePlace(filepath.Join(stage, p.Name), p.Directory); err != nil {
			return fmt.Errorf("make a place on the stage: %w", err)
		}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_SHARED}
	if err := unix.MountSetattr(unix.AT_FDCWD, stage, 0, &attr); err != nil {
		return fmt.Errorf("share the stage (needs Linux 5.12): %w", err)
	}
	return nil
}

func makePlace(path string, directory bool) error {
	if directory {
		return os.Mkdir(path, 0o755)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	return f.Close()
}

// setStage mounts what is of the run, in the name space of this thread. Each mount
// has its flags before it is seen anywhere.
func setStage(stage string, places []Place) error {
	var mapper confine.Mapper
	defer mapper.Close()
	for _, p := range places {
		target := filepath.Join(stage, p.Name)
		var err error
		switch {
		case p.Source == "":
		case p.Mapped:
			if err = mapper.Mount(p.Source, target); err != nil {
				err = confine.CannotMap(p.Source, err)
			}
		default:
			err = mountAt(p.Source, target, p.ReadOnly)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func mountAt(source, target string, readOnly bool) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("copy the mount of %s: %w", source, err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: stageFlags, Propagation: unix.MS_PRIVATE}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("restrict the mount of %s: %w", source, err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", source, err)
	}
	return nil
}
