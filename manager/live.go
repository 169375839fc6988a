package manager

import (
	"context"
	"errors"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/agent"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// promptTimeout bounds how long an agent may take to read a prompt. Those that are
// longer than a pipe holds are read once the agent has begun.
const promptTimeout = time.Minute

// isLive tells whether options are of a live session: an agent that reads prompts from
// its standard input.
func isLive(opts Options) bool { return opts.Agent != "" && opts.Interactive && !opts.TTY }

// firstPrompt is what a live session is told when it has started.
func firstPrompt(opts Options) string {
	if !isLive(opts) {
		return ""
	}
	return opts.Prompt
}

// IsLive tells whether the run is a live session of an agent: one without a terminal
// that takes prompts, by FollowUp, until its input is closed.
func (r *Run) IsLive() bool { return r.Agent != "" && r.Interactive && !r.TTY }

// AwaitsPrompt tells whether the run is a live session that has taken and answered, or
// given up, all prompts that it was given.
func (r *Run) AwaitsPrompt() bool {
	if !r.IsLive() || r.isClosed || r.GetState() != StateRunning || r.Report == nil || r.Report.Prompts < r.prompts {
		return false
	}
	switch r.Report.Activity.State {
	case agent.Done, agent.Waiting, agent.Failed:
		return true
	}
	return false
}

// showWaiting says in the report that a live session waits.
func (r *Run) showWaiting() {
	if r.AwaitsPrompt() && r.Report.Activity.State == agent.Done {
		r.Report.Activity.State = agent.Waiting
	}
}

// tellFirst tells a live session that was just started its first prompt. One that has
// ended meanwhile says itself why.
func (m *Manager) tellFirst(ctx context.Context, row *storage.RunRow) error {
	sp, _, err := m.documents.of(row)
	if err != nil || sp.FirstPrompt == "" {
		return err
	}
	if err = m.tellAgent(ctx, row.ID, sp.Agent, sp.FirstPrompt); err == nil {
		return nil
	}
	now, rowErr := m.anyRow(ctx, row.ID)
	hasEnded := errors.Is(err, runtime.ErrConflict) || errors.Is(err, syscall.EPIPE)
	if hasEnded || rowErr != nil || State(now.State) != StateRunning {
		return nil
	}
	m.log.Warn("an agent has not taken its first prompt", zap.String("run", row.ID), zap.Error(err))
	e := AsError(wrapf(err, "tell the agent its prompt"))
	return &Error{Code: e.Code, Message: e.Message, Next: "the run is up: give it the prompt with send_input, or stop it"}
}

// tell gives a live session a prompt.
func (m *Manager) tell(ctx context.Context, run *Run, opts FollowUpOptions) (*Run, error) {
	if run.GetState() != StateRunning {
		return nil, &Error{Code: CodeConflict, Retryable: true, Message: "the run is " + string(run.GetState()), Next: "look at its state with resolve, and send this again"}
	}
	replayed, err := m.once(ctx, opts.IdempotencyKey, run.ID, opts.Prompt, func() error {
		return m.tellAgent(ctx, run.ID, run.Agent, opts.Prompt)
	})
	if err != nil {
		return nil, err
	}
	now, err := m.get(ctx, run.ID)
	if err == nil {
		now.Replayed = replayed
	}
	return now, err
}

// closeLive closes the input of a live session. That is noted first, so that a waiter
// does not take it for one that waits.
func (m *Manager) closeLive(ctx context.Context, driver runtime.Runtime, row *storage.RunRow) error {
	if err := m.changeLive(ctx, row.ID, func(mt *meta) { mt.Closed = true }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, promptTimeout)
	defer cancel()
	_, err := write(ctx, driver, row.Handle, nil, true)
	if err != nil {
		err = errors.Join(err, m.changeLive(context.WithoutCancel(ctx), row.ID, func(mt *meta) { mt.Closed = false }))
	}
	return err
}

// once tells a prompt, unless an earlier call with the same key has.
func (m *Manager) once(ctx context.Context, idempotencyKey, id, prompt string, tell func() error) (replayed bool, err error) {
	if idempotencyKey == "" {
		return false, tell()
	}
	key := storage.Key{Op: "prompt", Key: idempotencyKey, ArgsHash: argsHash([]string{id, prompt})}
	claim, err := m.store.ClaimKey(ctx, key, id)
	switch {
	case errors.Is(err, storage.ErrKeyReused):
		return false, insertError(err, id)
	case err != nil:
		return false, err
	case claim.Done:
		return true, nil
	case !claim.Fresh:
		return false, failf(CodeConflict, "look at its transcript, and send the prompt with another key if it is not there", "an earlier call with this idempotency key has not told how it ended")
	}
	err = tell()
	return false, errors.Join(err, m.settleKey(ctx, key, nil, err == nil))
}

// tellAgent writes a prompt to the input of a live session. The prompt is counted first, so
// that a waiter does not take an earlier answer for that to this one.
func (m *Manager) tellAgent(ctx context.Context, id, name, prompt string) error {
	a, err := agent.Lookup(name)
	if err != nil {
		return err
	}
	input, err := a.Input(prompt)
	if err != nil {
		return failf(CodeInvalidArgument, "", "%v", err)
	}
	driver, row, err := m.running(ctx, id)
	if err != nil {
		return err
	}
	if _, mt, err := m.documents.of(&row); err != nil {
		return err
	} else if mt.Closed {
		return failf(CodeConflict, "wait for its end, and send this again", "the input of the agent was closed, and it takes no prompt")
	}
	if err := m.changeLive(ctx, id, func(mt *meta) { mt.Prompts++ }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, promptTimeout)
	defer cancel()
	n, err := write(ctx, driver, row.Handle, input, false)
	if err != nil && n == 0 {
		// The agent has seen nothing of it.
		err = errors.Join(err, m.changeLive(context.WithoutCancel(ctx), id, func(mt *meta) { mt.Prompts-- }))
	}
	return err
}

// changeLive changes what is known of a run that has not ended. One that has needs no
// change.
func (m *Manager) changeLive(ctx context.Context, id string, change func(*meta)) error {
	var failed error
	_, err := m.store.ChangeRun(ctx, id, activeStates, func(row *storage.RunRow) { failed = changeMeta(row, change) })
	if notActive(err) {
		return nil
	}
	return errors.Join(err, failed)
}
