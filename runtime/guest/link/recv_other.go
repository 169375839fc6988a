//go:build !linux

package link

// cloexecOnReceive is a flag that this system does not have.
const cloexecOnReceive = 0
