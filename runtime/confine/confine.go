// Package confine is what the drivers of one machine's own kernel have in common
// when they shut a sandbox in: the seccomp filter, the paths of /proc and /sys
// that are hidden, the user that a command runs as, and the mount through which a
// workspace of root's belongs to that user.
//
// It decides and describes; the drivers put it into what their engine takes.
package confine
