//go:build linux

package shim

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The size is that of a process between fork and exec; the program inherits it.
func TestChildHasRoomForGVisorsDescriptors(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	output, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()

	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "grep FDSize /proc/$$/status"}, &syscall.ProcAttr{
		Files: withRoom([]uintptr{null.Fd(), output.Fd(), output.Fd()}),
	})
	if err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 0 {
		t.Fatal(status, err)
	}
	got, err := os.ReadFile(output.Name())
	if err != nil {
		t.Fatal(err)
	}
	if fields := strings.Fields(string(got)); len(fields) != 2 || fields[1] != "256" {
		t.Errorf("the child's table: got %q, want room for 256", got)
	}
}
