package manager

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// ending is what is known of a run's end. Either exit is set, or reason.
type ending struct {
	exit    *runtime.Exit
	reason  EndReason
	message string
	at      time.Time
}

// finish records the end of a run, wakes the waiters, and then releases what the
// run held. The order matters: who is woken sees the final state. It is nil if
// somebody else recorded the end.
func (m *Manager) finish(ctx context.Context, id string, end ending) error {
	// The end has happened; a caller that goes away does not undo it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	requested := m.closeGate(ctx, id)
	report := m.lastReport(ctx, id)
	if err := m.forgetSecrets(id); err != nil {
		m.log.Warn("removing the secrets of an ended run failed; they go with its directory", zap.String("run", id), zap.Error(err))
	}
	m.stopServices(ctx, id)
	if err := m.step("finish: record the end"); err != nil {
		return err
	}
	row, err := m.store.ChangeRun(ctx, id, append([]string{string(StateCreated)}, activeStates...), func(row *storage.RunRow) {
		applyEnding(row, end)
		_ = changeMeta(row, func(mt *meta) {
			mt.Unconfirmed, mt.Requested, mt.Report = "", requested, report
			mt.HostPorts, mt.PortsNote = nil, ""
			mt.endServices()
		})
	})
	if notActive(err) || errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("record the end of %s: %w", id, err)
	}
	m.changes.announce()
	m.log.Info("run ended", zap.String("run", id), zap.String("state", row.State), zap.String("reason", row.EndReason))
	if err := m.step("finish: release the sandbox"); err != nil {
		return err
	}
	if !row.Keep {
		m.releaseSandbox(ctx, row)
	}
	return m.store.ReleaseLease(ctx, id, m.holder.ID())
}

// notActive reports whether a change failed because the run is in another state
// by now; of a change of an active run, because it is final or was never started.
func notActive(err error) bool {
	_, ok := errors.AsType[*storage.StateChangedError](err)
	return ok
}

// applyEnding writes an end into a row: exit 0 and an end that was asked for are
// stopped, everything else is failed.
func applyEnding(row *storage.RunRow, end ending) {
	row.StoppedAt = end.at
	if row.StoppedAt.IsZero() {
		row.StoppedAt = time.Now()
	}
	if row.StartedAt.After(row.StoppedAt) {
		// A command that ends before its start is recorded has lasted no
		// time that anybody could measure.
		row.StartedAt = row.StoppedAt
	}
	reason, message := end.reason, end.message
	if exit := end.exit; exit != nil {
		code := exit.Code
		row.ExitCode, row.Signal, row.OOMKilled = &code, int(exit.Signal), exit.OOMKilled
		if reason == "" {
			reason, message = reasonOf(*exit, row.StopRequested)
		}
	}
	row.EndReason = string(reason)
	if reason == EndStopRequested || (reason == EndExited && message == "") {
		row.State, row.Error = string(StateStopped), ""
		return
	}
	row.State, row.Error = string(StateFailed), message
}

// reasonOf says why a command ended and, if that makes the run a failed one,
// what to tell a person.
func reasonOf(exit runtime.Exit, stopRequested bool) (EndReason, string) {
	switch {
	case exit.Cause == runtime.CauseSetupFailed:
		return EndSetupFailed, exit.Message
	case exit.Cause == runtime.CauseLost && exit.Message != "":
		return EndLost, exit.Message
	case exit.Cause == runtime.CauseLost:
		return EndLost, "the process that kept the sandbox was ended, and the command with it"
	case exit.Cause == runtime.CauseDeadline:
		return EndDeadline, "the run's timeout passed"
	case exit.OOMKilled:
		return EndOOM, "the run used more memory than it may; raise its memory limit"
	case stopRequested:
		return EndStopRequested, ""
	case exit.Message != "":
		return EndExited, exit.Message
	case exit.Signal != 0:
		return EndExited, "the command was ended by " + signalName(int(exit.Signal))
	case exit.Code != 0:
		return EndExited, fmt.Sprintf("the command exited with code %d", exit.Code)
	}
	return EndExited, ""
}

// signalName returns e.g. "SIGKILL", or nothing for no signal.
func signalName(signal int) string {
	if signal == 0 {
		return ""
	}
	if name := unix.SignalName(syscall.Signal(signal)); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", signal)
}

// releaseSandbox removes the sandbox of an ended run. A sandbox that cannot be
// removed now is found by the sweep: its run is final and does not keep it.
func (m *Manager) releaseSandbox(ctx context.Context, row storage.RunRow) {
	driver, err := m.drivers.get(runtime.Type(row.Runtime))
	if err == nil {
		pause := firstPause
		for try := range removeTries {
			if err = driver.Remove(ctx, row.Handle); err == nil || ctx.Err() != nil {
				break
			}
			if try == removeTries-1 || sleep(ctx, pause) != nil {
				break
			}
			pause *= 2
		}
	}
	if err != nil {
		m.log.Warn("removing the sandbox of an ended run failed; a later sweep tries again", zap.String("run", row.ID), zap.Error(err))
		return
	}
	_, err = m.store.ChangeRun(ctx, row.ID, finalStates, func(row *storage.RunRow) {
		row.Handle, row.BackendID = nil, ""
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		m.log.Warn("recording the removal of a sandbox failed", zap.String("run", row.ID), zap.Error(err))
	}
}

var finalStates = []string{string(StateStopped), string(StateFailed)}
