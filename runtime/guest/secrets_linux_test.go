package guest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/internal/mask"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

const testSecret = "s3cr3t-Value/+0123456789"

// memory records in memory.
type memory struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (m *memory) record(_ logring.Stream, _ time.Time, _ bool, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.text.Write(data)
	return nil
}

func (m *memory) maxRecord() int { return 7 << 10 }

func (m *memory) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

// pumped returns the end of a pipe, what is recorded of it, and what waits for its end.
func pumped(t *testing.T, secrets *mask.Masker) (*os.File, *memory, func()) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	rec := &memory{}
	p := &pump{out: newOutput(rec), stream: logring.Stdout, file: r, secrets: secrets}
	var done sync.WaitGroup
	done.Go(p.run)
	return w, rec, func() {
		w.Close()
		done.Wait()
		r.Close()
	}
}

func await(t *testing.T, rec *memory, want string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); rec.String() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("recorded is %q, want %q", rec.String(), want)
		}
	}
}

// A line that is not finished is recorded after a moment, but for what can be the
// beginning of a secret, however long its end takes.
func TestBeginningOfASecretIsHeldBack(t *testing.T) {
	t.Parallel()
	w, rec, end := pumped(t, newMasker([]string{"TOKEN=" + testSecret}))
	stars := strings.Repeat("*", len(testSecret))
	for _, step := range []struct{ write, want string }{
		{"before ", "before "},
		{"and " + testSecret[:9], "before and "},
		{testSecret[9:], "before and " + stars},
		{testSecret[:9] + "another ", "before and " + stars + testSecret[:9] + "another "},
		{"line\n", "before and " + stars + testSecret[:9] + "another line\n"},
	} {
		if _, err := w.WriteString(step.write); err != nil {
			t.Fatal(err)
		}
		await(t, rec, step.want)
	}
	if _, err := w.WriteString("the end " + testSecret[:5]); err != nil {
		t.Fatal(err)
	}
	end()
	if got := rec.String(); !strings.HasSuffix(got, "the end "+testSecret[:5]) {
		t.Errorf("at the end there is %q", got)
	}
}

// noise is text with a secret in many forms, without ends of lines for long.
func noise(random *rand.Rand, size int) string {
	forms := mask.Values(testSecret)
	var b strings.Builder
	for b.Len() < size {
		switch random.IntN(6) {
		case 0:
			b.WriteString(forms[random.IntN(len(forms))])
		case 1:
			form := forms[random.IntN(len(forms))]
			b.WriteString(form[:random.IntN(len(form))])
		case 2:
			if random.IntN(500) == 0 {
				b.WriteString("\n")
			}
		default:
			b.WriteString("some text "[:random.IntN(10)])
		}
	}
	return b.String()
}

func TestOutputIsMaskedWhereverItIsCut(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	secrets := newMasker([]string{"TOKEN=" + testSecret})
	text := noise(random, 1<<20)
	want := secrets.Text(text)
	w, rec, end := pumped(t, secrets)
	var sent bytes.Buffer
	to := outlet{secrets: secrets, send: func(p []byte) error {
		if len(p) > link.MaxChunk {
			t.Errorf("%d bytes are sent at once", len(p))
		}
		sent.Write(p)
		return nil
	}}
	for rest := text; rest != ""; {
		n := min(len(rest), 1+random.IntN([]int{3, 100, 50000}[random.IntN(3)]))
		if _, err := w.WriteString(rest[:n]); err != nil {
			t.Fatal(err)
		}
		if err := to.write([]byte(rest[:n])); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	end()
	if err := to.close(); err != nil {
		t.Fatal(err)
	}
	if rec.String() != want {
		t.Error("the record is not what it has to be")
	}
	if sent.String() != want {
		t.Error("what is sent is not what it has to be")
	}
	if strings.Contains(want, testSecret) || want == text {
		t.Error("the secret is not masked")
	}
}

// Errors keep what they are, and lose what they are not to tell.
func TestErrorsHoldNoSecret(t *testing.T) {
	t.Parallel()
	secrets := newMasker([]string{"TOKEN=" + testSecret})
	if err := hide(secrets, link.ErrEnded); !errors.Is(err, link.ErrEnded) {
		t.Errorf("became %v", err)
	}
	err := hide(secrets, &link.CommandError{Code: link.CodeNotFound, Message: "not found in " + testSecret})
	command, ok := errors.AsType[*link.CommandError](err)
	if !ok || command.Code != link.CodeNotFound || strings.Contains(command.Message, testSecret) {
		t.Errorf("became %v", err)
	}
	if err := hide(secrets, errors.New("no "+testSecret)); strings.Contains(err.Error(), testSecret) {
		t.Errorf("became %v", err)
	}
	if hide(secrets, nil) != nil {
		t.Error("nothing became an error")
	}
}
