package manager

// State is where a run stands in its life.
//
//	created -> starting -> running -> stopping -> stopped
//	     \________\___________\_________\_______-> failed
type State string

// The states of a run. Stopped and failed are final.
const (
	StateCreated  State = "created"
	StateStarting State = "starting"
	StateRunning  State = "running"
	StateStopping State = "stopping"
	StateStopped  State = "stopped" // its command exited 0, or a stop was asked for
	StateFailed   State = "failed"  // non-zero exit, failed start, crash, or a passed deadline
)

// Terminal reports whether s is final.
func (s State) Terminal() bool { return s == StateStopped || s == StateFailed }

// Active reports whether the run's command may be running, so that the run
// needs a supervisor.
func (s State) Active() bool {
	return s == StateStarting || s == StateRunning || s == StateStopping
}

// EndReason says why a run ended; it is empty while the run lives.
type EndReason string

// The reasons for which a run ends.
const (
	EndExited        EndReason = "exited"
	EndStopRequested EndReason = "stop_requested"
	EndDeadline      EndReason = "deadline"
	EndIdle          EndReason = "idle"
	EndBudget        EndReason = "budget"
	EndOOM           EndReason = "oom"
	EndLost          EndReason = "lost"         // the sandbox disappeared without telling how it ended
	EndSetupFailed   EndReason = "setup_failed" // its command never ran
)
