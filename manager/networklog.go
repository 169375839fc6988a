package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
)

// NetworkSummary is what a run's requests came to.
type NetworkSummary struct {
	Requests int       `json:"requests"`
	Refused  int       `json:"refused"`
	Last     []Refusal `json:"last,omitempty"` // refusals, the newest last
}

// Refusal is one request that the gate did not let through.
type Refusal struct {
	Host string `json:"host"` // with its port
	Rule string `json:"rule,omitempty"`
}

// NetworkEntry is one request of a run, as the gate recorded it.
type NetworkEntry = proxy.Entry

// NetworkQuery selects a part of what a run requested. With a cursor it goes forward
// from there; without, it is the last entries.
type NetworkQuery struct {
	Cursor   string
	Limit    int    // entries; zero is 100, at most 1000
	Host     string // only of this host and those below it
	Decision string // only "allowed", "refused" or "learned"
}

// NetworkPage is a part of what a run requested, oldest first.
type NetworkPage struct {
	Entries    []NetworkEntry
	NextCursor string // where to go on; valid for as long as the run exists
	Truncated  bool   // there is more than fitted
	LostBytes  int64  // of the record, that are no longer kept
}

// NetworkLog returns a part of what a run requested.
func (m *Manager) NetworkLog(ctx context.Context, runID string, query NetworkQuery) (NetworkPage, error) {
	page, err := m.networkLog(ctx, runID, query)
	return page, wrapf(err, "read what %s requested", runID)
}

func (m *Manager) networkLog(ctx context.Context, runID string, query NetworkQuery) (NetworkPage, error) {
	pos, err := query.check()
	if err != nil {
		return NetworkPage{}, err
	}
	run, err := m.get(ctx, runID)
	if err != nil {
		return NetworkPage{}, err
	}
	reader, err := run.Store.OpenNetworkLog()
	if errors.Is(err, logring.ErrNoLog) || errors.Is(err, os.ErrNotExist) {
		return NetworkPage{}, nil // it has no gate, or never got so far
	}
	if err != nil {
		return NetworkPage{}, err
	}
	defer reader.Close()
	return pageOf(reader, pos, query)
}

// check fills in what a query does not say, and returns where it begins.
func (q *NetworkQuery) check() (logring.Position, error) {
	switch {
	case q.Limit < 0 || q.Limit > maxPageEntries:
		return logring.Position{}, failf(CodeInvalidArgument, fmt.Sprintf("choose from 1 to %d", maxPageEntries), "a page of %d entries is out of range", q.Limit)
	case q.Limit == 0:
		q.Limit = 100
	}
	if q.Decision != "" && !slices.Contains([]string{proxy.Allowed, proxy.Refused, proxy.Learned}, q.Decision) {
		return logring.Position{}, failf(CodeInvalidArgument, "use allowed, refused or learned", "unknown decision %q", q.Decision)
	}
	if q.Cursor == "" {
		return logring.Position{}, nil
	}
	pos, err := logring.ParseCursor(q.Cursor)
	if err != nil {
		return pos, failf(CodeInvalidArgument, "use the next_cursor of an earlier answer", "the cursor %q is not one of ours: %v", q.Cursor, err)
	}
	return pos, nil
}

// pageOf reads from a position on; without a cursor all that there is, of which it
// keeps the end.
func pageOf(reader *logring.Reader, pos logring.Position, query NetworkQuery) (NetworkPage, error) {
	page := NetworkPage{NextCursor: pos.Cursor()}
	for {
		records, next, lost, err := reader.ReadFrom(pos, followBytes)
		if err != nil {
			return page, err
		}
		page.LostBytes += lost
		if next == pos {
			break
		}
		pos = next
		for _, record := range records {
			var e NetworkEntry
			if json.Unmarshal(record.Data, &e) != nil || !query.matches(&e) {
				continue // damaged, as after a crash, or not asked for
			}
			page.Entries = append(page.Entries, e)
		}
		if query.Cursor != "" && len(page.Entries) >= query.Limit {
			break
		}
		if extra := len(page.Entries) - query.Limit; query.Cursor == "" && extra > 0 {
			page.Entries, page.Truncated = slices.Delete(page.Entries, 0, extra), true
		}
	}
	page.NextCursor = pos.Cursor()
	if query.Cursor != "" {
		page.Truncated = pos.Offset < reader.End().Offset
	}
	return page, nil
}

func (q *NetworkQuery) matches(e *NetworkEntry) bool {
	host := strings.ToLower(q.Host)
	return (q.Decision == "" || q.Decision == e.Decision) && (host == "" || host == e.Host || strings.HasSuffix(e.Host, "."+host))
}

// SuggestRules returns the rules, sorted, that would have allowed what the policy of
// a run refused; with paths, by method and path where the gate could read them.
func (m *Manager) SuggestRules(ctx context.Context, runID string, paths bool) ([]string, error) {
	suggested := map[string]bool{}
	query := NetworkQuery{Limit: maxPageEntries, Cursor: logring.Position{}.Cursor()}
	for {
		page, err := m.NetworkLog(ctx, runID, query)
		if err != nil {
			return nil, err
		}
		for i := range page.Entries {
			if e := &page.Entries[i]; e.Decision != proxy.Allowed {
				if rule := ruleFor(e, paths); rule != "" {
					suggested[rule] = true
				}
			}
		}
		if page.NextCursor == query.Cursor || !page.Truncated {
			return slices.Sorted(maps.Keys(suggested)), nil
		}
		query.Cursor = page.NextCursor
	}
}

// ruleFor is the rule that would allow one request, or nothing where none would.
func ruleFor(e *NetworkEntry, paths bool) string {
	if e.Kind == proxy.KindSignature || e.Kind == proxy.KindCredentials || e.Operation != "" {
		return "" // it takes a grant, or is denied whatever the rules allow
	}
	host, err := policy.ParseHost(e.Host)
	if err != nil || e.Port < 1 || e.Port > 65535 {
		return ""
	}
	text := host.String()
	if e.Port != 80 && e.Port != 443 {
		text = policy.Target{Host: host, Port: uint16(e.Port)}.String()
	} else if addr, is := host.Addr(); is && addr.Is6() {
		text = "[" + text + "]"
	}
	if paths && e.Kind == proxy.KindHTTP && e.Path != "" {
		text += fmt.Sprintf(" allow %s %s", e.Method, e.Path)
	}
	rule, err := policy.ParseRule(text)
	if err != nil {
		return "" // a path that no rule can name exactly
	}
	return rule.String()
}

// summarize reads the whole record of an ended run.
func summarize(run *Run) (*NetworkSummary, error) {
	reader, err := run.Store.OpenNetworkLog()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	summary := &NetworkSummary{}
	pos := logring.Position{}
	for {
		records, next, _, err := reader.ReadFrom(pos, followBytes)
		if err != nil || next == pos {
			return summary, err
		}
		pos = next
		for _, record := range records {
			var e NetworkEntry
			if json.Unmarshal(record.Data, &e) == nil {
				summary.add(&e)
			}
		}
	}
}

func (s *NetworkSummary) add(e *NetworkEntry) {
	s.Requests++
	if e.Decision != proxy.Refused {
		return
	}
	s.Refused++
	if e.Host == "" {
		return // it was not even a request to somebody
	}
	refusal := Refusal{Host: fmt.Sprintf("%s:%d", e.Host, e.Port), Rule: e.Rule}
	if e.Kind == proxy.KindSignature || e.Kind == proxy.KindCredentials {
		refusal.Rule = e.Error
	}
	if slices.Contains(s.Last, refusal) {
		return
	}
	if len(s.Last) == shownRefusals {
		s.Last = slices.Delete(s.Last, 0, 1)
	}
	s.Last = append(s.Last, refusal)
}
