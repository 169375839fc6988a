// Package daemon is about the long-lived host process that owns the gate, as a
// run's record refers to it.
//
// The package holds what is said to that process about a run. It starts no
// process and opens no connection.
package daemon

// RegisterRequest introduces a run to the daemon. It carries names of grants,
// never a credential, so that it can be stored with the run.
type RegisterRequest struct {
	RunID         string   `json:"run_id"`
	Grants        []string `json:"grants,omitempty"`
	NetworkPolicy string   `json:"network_policy,omitempty"` // "permissive" or "strict"
	NetworkAllow  []string `json:"network_allow,omitempty"`  // host patterns
}
