// Package proxy is about the gate, the only way out of a sandbox, as a run's
// record refers to it.
//
// The package holds what describes a run's use of the gate. It moves no traffic
// and holds no secret.
package proxy

import "time"

// AWSCredentialProvider says which AWS role a run's requests act under. It names
// the role; it neither holds nor fetches credentials. A run without the aws
// grant has none, which callers see as a nil provider.
type AWSCredentialProvider struct {
	RoleARN         string        // the role to assume
	Region          string        // region of the calls; empty leaves it to the caller
	SessionName     string        // how the session shows in AWS's own logs
	SessionDuration time.Duration // how long one set of credentials lasts; zero is the role's default
}
