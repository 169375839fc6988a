//go:build unix && !linux

package runtimetest

import "testing"

func withAccount(_ *testing.T, _ int, start func() error) error { return start() }
