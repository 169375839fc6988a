//go:build !linux

package main

// checkPlatform has nothing to add: sandboxes run in the engine's own machine.
func checkPlatform() []finding { return nil }
