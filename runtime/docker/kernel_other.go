//go:build !linux

package docker

// kernelRelease returns nothing: no container runs on this machine's kernel.
func kernelRelease() string { return "" }
