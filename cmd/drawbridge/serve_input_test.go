package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestPipeOfAClientIsReadInterruptibly(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("a pipe can be opened anew on Linux only")
	}
	given, client, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	in, closeInput := pollable(given)
	defer closeInput()
	if in == given {
		t.Fatal("the pipe was not opened anew")
	}
	if err := in.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after the deadline: %v", err)
	}
	if err := in.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(in); string(got) != "hello" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestInputThatIsNoPipeIsReadAsItIs(t *testing.T) {
	t.Parallel()
	file, err := os.Create(filepath.Join(t.TempDir(), "input"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	in, closeInput := pollable(file)
	closeInput()
	if in != file {
		t.Error("the file was opened anew")
	}
	if _, err := file.Stat(); err != nil {
		t.Errorf("the file was closed: %v", err)
	}
}
