package tools

import (
	"errors"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// errorCodes are the codes that an error can have.
var errorCodes = []string{
	string(manager.CodeInvalidArgument), string(manager.CodeNotFound), string(manager.CodeAmbiguous),
	string(manager.CodeConflict), string(manager.CodeQuota), string(manager.CodePolicyDenied),
	string(manager.CodeRuntimeUnavailable), string(manager.CodeImageMissing), string(manager.CodeUnsupported),
	string(manager.CodeTimeout), string(manager.CodeUnknownResult), string(manager.CodeStorageFull),
	string(manager.CodeInternal),
}

// runError is an error about a run that the answer shows beside it, because the
// call made the run and nobody else has told the client its ID.
type runError struct {
	err error
	run *manager.Run
}

func (e *runError) Error() string { return e.err.Error() }
func (e *runError) Unwrap() error { return e.err }

// fail returns the answer to a call that failed. What the handler had written
// is dropped: an answer is a result or an error, not half of each.
func (c *call) fail(err error) *mcp.CallToolResult {
	c.answer = answer{}
	e := manager.AsError(err)
	c.Object("error", func() {
		c.String("code", string(e.Code))
		c.String("message", message(e))
		c.Flag("retryable", e.Retryable)
		c.StringIf("next", e.Next)
	})
	if made, ok := errors.AsType[*runError](err); ok {
		c.Run("run", made.run)
	}
	result := c.result()
	result.IsError = true
	return result
}

// message is what failed, with its cause, without the next step, which has a
// field of its own.
func message(e *manager.Error) string {
	return (&manager.Error{Message: e.Message, Err: e.Err}).Error()
}

// invalid makes an error about arguments that are right each by itself.
func invalid(message, next string) error {
	return &manager.Error{Code: manager.CodeInvalidArgument, Message: message, Next: next}
}
