package runtime

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Unlimited is the value of a Ulimit that is none.
const Unlimited = -1

// OpenFiles is the greatest number of open files of a process in a sandbox: enough
// for builds and watchers, and small enough for programs that visit every possible
// one.
const OpenFiles = 65536

// Ulimit is a limit of each process in a sandbox, as setrlimit(2) has it: Soft can
// be raised by the process up to Hard. Unlimited stands for no limit.
type Ulimit struct {
	Name string // in lower case without RLIMIT_, e.g. "nofile"
	Soft int64
	Hard int64
}

// ulimits are the limits that there are.
var ulimits = map[string]struct {
	// byGuest is set where a low limit would be one of the guest too: it sets these
	// for what it starts. The others may be above what the backend gives by itself,
	// which takes the backend.
	byGuest bool
	// most is what no sandbox may exceed; zero is no bound, and none is written as
	// -1, because a limit of zero is one.
	most int64
}{
	"core":       {byGuest: true, most: -1}, // it would be written into the workspace, or go to a program of the host
	"cpu":        {byGuest: true},
	"data":       {byGuest: true},
	"fsize":      {byGuest: true},
	"locks":      {},
	"memlock":    {},
	"msgqueue":   {},
	"nice":       {most: -1}, // it would go before others on this machine
	"nofile":     {byGuest: true, most: OpenFiles},
	"nproc":      {byGuest: true}, // see CheckUlimits
	"rss":        {},
	"rtprio":     {most: -1}, // as nice
	"rttime":     {},
	"sigpending": {},
	"stack":      {byGuest: true},
}

// ByGuest tells whether the guest sets the limit for the commands that it starts,
// rather than the backend for the guest too.
func (u Ulimit) ByGuest() bool { return ulimits[u.Name].byGuest }

// CheckUlimits refuses limits that no sandbox with these resources can have. What it
// says is for a person.
func CheckUlimits(limits []Ulimit, resources Resources) error {
	seen := make(map[string]bool)
	for _, u := range limits {
		known, ok := ulimits[u.Name]
		if !ok {
			return fmt.Errorf("there is no limit %q; use %s", u.Name, strings.Join(slices.Sorted(maps.Keys(ulimits)), ", "))
		}
		most := max(known.most, 0)
		if u.Name == "nproc" {
			most = resources.WithDefaults().PidsLimit
		}
		switch {
		case seen[u.Name]:
			return fmt.Errorf("the limit %s is set twice; set it once", u.Name)
		case u.Soft < Unlimited || u.Hard < Unlimited:
			return fmt.Errorf("the limit %s is negative; use -1 for none", u.Name)
		case above(u.Soft, u.Hard):
			return fmt.Errorf("the limit %s has a soft value of %d above the hard value of %d; lower it", u.Name, u.Soft, u.Hard)
		case (known.most != 0 || u.Name == "nproc") && above(u.Hard, most):
			return fmt.Errorf("the limit %s of %d is above what a sandbox may have; choose %d at most", u.Name, u.Hard, most)
		}
		seen[u.Name] = true
	}
	return nil
}

// above compares limits.
func above(a, b int64) bool { return b != Unlimited && (a == Unlimited || a > b) }
