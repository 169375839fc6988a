package secret

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

const (
	// maxName bounds the name of a variable, in bytes.
	maxName = 256
	// maxFile bounds a file of secrets.
	maxFile = 2 * (MaxTotal + MaxSecrets*maxName)
	// separator is in no name and no value.
	separator = "\x00"
)

// WriteFile writes the secrets of a run, by variable, encrypted as grants are.
func WriteFile(ctx context.Context, store *credential.Store, path, run string, values map[string]credential.Secret) error {
	var plain strings.Builder
	plain.WriteString(run) // so that no other run's file is taken for it
	for name, value := range values {
		plain.WriteString(separator + name + "=" + value.Reveal())
	}
	data, err := store.Seal(ctx, []byte(plain.String()))
	if err != nil {
		return fmt.Errorf("encrypt the secrets of %s: %w", run, err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("keep the secrets of %s: %w", run, err)
	}
	return nil
}

// ReadFile reads what WriteFile has written for a run.
func ReadFile(ctx context.Context, store *credential.Store, path, run string) (map[string]credential.Secret, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxFile {
		err = errors.New("it is too large")
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the secrets of %s: %w", run, err)
	}
	plain, err := store.Unseal(ctx, data)
	if err != nil {
		return nil, fmt.Errorf("decrypt the secrets of %s: %w; destroy the run and create it again", run, err)
	}
	entries := strings.Split(string(plain), separator)
	if entries[0] != run {
		return nil, fmt.Errorf("read the secrets of %s: the file is another run's", run)
	}
	values := make(map[string]credential.Secret, len(entries)-1)
	for _, entry := range entries[1:] {
		name, value, _ := strings.Cut(entry, "=")
		values[name] = credential.NewSecret(value)
	}
	return values, nil
}
