package daemon

import (
	"context"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/mask"
	"github.com/drawbridge-mcp/drawbridge/manager/access/secret"
)

// secretsOf returns what finds the secrets of a run's environment in its record; nil where
// it has none. Names of hosts are recorded in lower case.
func (s *server) secretsOf(ctx context.Context, request *RegisterRequest) (*mask.Masker, error) {
	if request.Secrets == "" {
		return nil, nil //nolint:nilnil // means none
	}
	store, err := s.keepers.store(request.Profile)
	if err != nil {
		return nil, err
	}
	values, err := secret.ReadFile(ctx, store, request.Secrets, request.RunID)
	if err != nil {
		return nil, err
	}
	var forms []string
	for _, value := range values {
		forms = append(forms, mask.Values(value.Reveal())...)
		forms = append(forms, strings.ToLower(value.Reveal()))
	}
	return mask.New(forms), nil
}
