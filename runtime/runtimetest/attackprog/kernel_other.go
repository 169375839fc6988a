//go:build linux && !amd64

package main

import (
	"fmt"
	"os"
)

// This processor has one entry to the kernel: the attacks that need another one
// cannot be made and count as refused.

func processorCalls() []attack {
	absent := func() (string, error) { return "", errNothing }
	return []attack{{"change segment descriptors", absent}, {"get at ports of the machine", absent}, {"make a call of another table", absent}}
}

func foreignCall([]string) {
	fmt.Print("this processor has no such entry")
	os.Exit(1)
}
