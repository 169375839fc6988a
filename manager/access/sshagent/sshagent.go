// Package sshagent is about the filtered SSH agent of a run: an agent socket
// that offers the keys the run was granted and no others.
//
// The package names the socket and the keys. It does not speak the agent
// protocol.
package sshagent

// Server is the SSH agent of one run. A run without SSH grants has none, which
// callers see as a nil Server.
type Server struct {
	SocketPath   string   // absolute path of the agent's socket on the host
	Fingerprints []string // SHA256 fingerprints of the keys that are offered
}
