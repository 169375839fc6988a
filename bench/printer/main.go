// Command printer prints numbered lines of 100 bytes as fast as they are taken.
// The first line carries the time at which it began and the last one the time at
// which it was done, both by the clock of the machine that containers share with
// the host, so that a reader can tell how long anything took on the way.
package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

const (
	lineLen = 100
	// batch is how many lines go into one write: somewhat less than a pipe holds.
	batch = 600
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "printer: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: printer BYTES")
	}
	size, err := strconv.ParseInt(os.Args[1], 10, 64)
	if err != nil {
		return fmt.Errorf("read the number of bytes: %w", err)
	}
	lines := max(size/lineLen, 2)
	buf := make([]byte, 0, batch*lineLen)
	for n := range lines {
		word := "................................................................"
		if n == 0 || n == lines-1 {
			if n != 0 {
				// Before the last line everything else has been taken.
				if err := flush(&buf); err != nil {
					return err
				}
			}
			word = fmt.Sprintf("at %d", time.Now().UnixNano())
		}
		buf = appendLine(buf, n, word)
		if len(buf) == cap(buf) {
			if err := flush(&buf); err != nil {
				return err
			}
		}
	}
	return flush(&buf)
}

func flush(buf *[]byte) error {
	_, err := os.Stdout.Write(*buf)
	*buf = (*buf)[:0]
	return err
}

// appendLine adds a line of lineLen bytes: its number in 12 digits, and word.
func appendLine(buf []byte, n int64, word string) []byte {
	start := len(buf)
	buf = append(buf, "000000000000"...)
	for i := start + 11; n > 0; i-- {
		buf[i] = byte('0' + n%10)
		n /= 10
	}
	buf = append(buf, ' ')
	buf = append(buf, word...)
	buf = append(buf, bytes.Repeat([]byte{' '}, lineLen-1-(len(buf)-start))...)
	return append(buf, '\n')
}
