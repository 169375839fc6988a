// Package audit is about the audit log of a run: the account of what its agent
// was allowed and refused, one file in the run's directory.
//
// The package names the log and where it is. It neither writes nor verifies
// entries.
package audit

// Store is the audit log of one run. A run without an audit log has none, which
// callers see as a nil Store.
type Store struct {
	RunID string // the run that the log is about
	Path  string // absolute path of the log on the host
}
