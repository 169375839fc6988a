package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/secret"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Secrets of a run
//
// They are fetched when the run is made, by whoever makes it, and given to the guest when
// it is started, by whoever starts it. In between, and as long as the run lives, they lie
// in a file of the run's directory, encrypted as grants are: another process may start the
// run, and the gate looks for them in what it records, also after it was started anew.
// Nothing else on the host has them: the guest masks what commands print before anybody
// else sees it.

// secretsTimeout bounds the fetching of all secrets of a run.
const secretsTimeout = time.Minute

// takeSecrets adds the secrets of the Config. A variable that the caller sets wins.
func takeSecrets(o *Options, c *config.Config) error {
	secrets := maps.Clone(o.Secrets)
	if secrets == nil {
		secrets = map[string]string{}
	}
	for name, reference := range c.Secrets {
		if _, has := secrets[name]; !has {
			secrets[name] = reference
		}
	}
	o.Secrets = secrets
	return nil
}

// withSecrets returns the options without the secrets of variables that they set, and
// refuses those that cannot be had.
func (m *Manager) withSecrets(opts Options) (Options, error) {
	if len(opts.Secrets) == 0 {
		return opts, nil
	}
	secrets := maps.Clone(opts.Secrets)
	for _, entry := range opts.Env {
		name, _, _ := strings.Cut(entry, "=")
		delete(secrets, name)
	}
	opts.Secrets = secrets
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		if err := checkEnv([]string{name + "="}); err != nil {
			return opts, err
		}
		if _, err := secret.Parse(secrets[name]); err != nil {
			return opts, failf(CodeInvalidArgument, "", "use the secret of %s: %v", name, err)
		}
		if m.opts.ForAgents && !m.permitsSecret(secrets[name]) {
			return opts, failf(CodePolicyDenied, fmt.Sprintf("leave it out, or ask the person who runs the server to start it with `drawbridge serve --allow-secret %s`", quoted(secrets[name])),
				"agents are not allowed to use the secret %s", secrets[name])
		}
	}
	if len(secrets) > secret.MaxSecrets {
		return opts, failf(CodeInvalidArgument, "", "there are %d secrets, the limit is %d", len(secrets), secret.MaxSecrets)
	}
	return opts, nil
}

// permitsSecret tells whether agents may use a secret.
func (m *Manager) permitsSecret(reference string) bool {
	ref, err := secret.Parse(reference)
	return err == nil && slices.ContainsFunc(m.opts.AllowSecrets, func(text string) bool {
		pattern, err := secret.ParsePattern(text)
		return err == nil && pattern.Matches(ref)
	})
}

// quoted returns a word for a shell.
func quoted(word string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+="
	if strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// canHaveSecrets refuses secrets where the sandbox could not get them in private.
func canHaveSecrets(ctx context.Context, driver runtime.Runtime, secrets map[string]string) error {
	if len(secrets) == 0 {
		return nil
	}
	can, err := driver.Capabilities(ctx)
	if err != nil {
		return err
	}
	if !can.Secrets {
		return failf(CodeUnsupported, can.SecretsMend, "sandboxes of %s cannot be given secrets in private", driver.Type())
	}
	return nil
}

// fetchSecrets fetches the secrets of the run, and keeps them for its start.
func (m *Manager) fetchSecrets(ctx context.Context, c *creation) error {
	if len(c.opts.Secrets) == 0 {
		return nil
	}
	if c.opts.Progress != nil {
		c.opts.Progress("fetching secrets: " + strings.Join(slices.Sorted(maps.Keys(c.opts.Secrets)), ", "))
	}
	bound, cancel := context.WithTimeout(ctx, secretsTimeout)
	defer cancel()
	values, err := secret.New().Resolve(bound, c.opts.Secrets)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if err != nil {
		return failf(CodeInvalidArgument, "", "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	store, err := m.credentials()
	if err != nil {
		return err
	}
	// The file goes with the run's directory.
	return secret.WriteFile(bound, store, m.store.RunStore(c.row.ID).SecretsFile(), c.row.ID, values)
}

// secretsOf returns the secrets of a run that is about to start, as KEY=VALUE.
func (m *Manager) secretsOf(ctx context.Context, row *storage.RunRow) ([]string, error) {
	sp, err := decode[spec](row.Spec, "specification", row.ID)
	if err != nil || len(sp.Secrets) == 0 {
		return nil, err
	}
	store, err := m.credentials()
	if err != nil {
		return nil, err
	}
	values, err := secret.ReadFile(ctx, store, m.store.RunStore(row.ID).SecretsFile(), row.ID)
	if err != nil {
		return nil, err
	}
	var env []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		env = append(env, name+"="+values[name].Reveal())
	}
	return env, nil
}

// forgetSecrets removes the secrets of a run that has ended.
func (m *Manager) forgetSecrets(id string) error {
	err := os.Remove(m.store.RunStore(id).SecretsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
