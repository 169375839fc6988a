// Package snapshot is about copies of a run's workspace, taken so that a person
// can go back to the state before an agent's work.
//
// The package names the workspace and where its copies lie. It neither takes nor
// restores them.
package snapshot

// Engine ties a run's workspace to the place of its snapshots. A run without
// snapshots has none, which callers see as a nil Engine.
type Engine struct {
	Workspace string // absolute path of the directory that is copied
	Dir       string // absolute path of the directory that holds the copies
}
