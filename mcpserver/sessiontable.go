package mcpserver

import (
	"crypto/rand"
	"sync"
	"time"
)

// sessionTable keeps the sessions of legacy clients on streamable HTTP, by the id
// that the client carries. Unknown ids are refused, so that a client learns that
// its session is gone: mcp-go takes any id that looks right.
//
// Sessions that are not used expire. They are looked for when the table is used;
// an idle session costs memory only, and their number is bounded.
type sessionTable struct {
	ttl time.Duration
	max int

	mu        sync.Mutex // guards what follows
	byID      map[string]*httpSession
	lastSweep time.Time
	closed    bool
}

// httpSession is a session with what the table needs to know about it.
type httpSession struct {
	*session
	publicID string // unguessable: whoever knows it may use the session

	users    int           // guarded by the table's mu; requests and streams now open
	lastUsed time.Time     // guarded by the table's mu
	takeover chan struct{} // guarded by the table's mu; closed when another GET takes the stream
}

func newSessionTable(ttl time.Duration, limit int) *sessionTable {
	if ttl <= 0 {
		ttl = DefaultSessionIdleTTL
	}
	if limit <= 0 {
		limit = DefaultMaxSessions
	}
	return &sessionTable{ttl: ttl, max: limit, byID: make(map[string]*httpSession)}
}

// add takes a new session in use and returns it, or nil when all places are taken
// by sessions in use.
func (t *sessionTable) add(of *session) *httpSession {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweepLocked()
	if len(t.byID) >= t.max {
		t.evictLocked()
	}
	if t.closed || len(t.byID) >= t.max {
		return nil
	}
	added := &httpSession{session: of, publicID: rand.Text(), users: 1, lastUsed: time.Now()}
	t.byID[added.publicID] = added
	return added
}

// use finds a session and marks it as used until leave; nil when it is unknown.
func (t *sessionTable) use(publicID string) *httpSession {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweepLocked()
	found := t.byID[publicID]
	if found != nil {
		found.users++
	}
	return found
}

// leave ends one use.
func (t *sessionTable) leave(s *httpSession) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.users--
	s.lastUsed = time.Now()
}

// listen makes the caller the one stream of the session, ending an earlier one: a
// client that reconnects has lost it, whether we have noticed or not.
func (t *sessionTable) listen(s *httpSession) (taken <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.takeover != nil {
		close(s.takeover)
	}
	s.takeover = make(chan struct{})
	return s.takeover
}

// remove ends a session; an unknown one has ended already.
func (t *sessionTable) remove(publicID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if found := t.byID[publicID]; found != nil {
		delete(t.byID, publicID)
		found.close()
	}
}

// close ends all sessions and lets no further begin.
func (t *sessionTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for id, s := range t.byID {
		delete(t.byID, id)
		s.close()
	}
}

func (t *sessionTable) sweepLocked() {
	now := time.Now()
	if now.Sub(t.lastSweep) < t.ttl/4 {
		return
	}
	t.lastSweep = now
	for id, s := range t.byID {
		if s.users == 0 && now.Sub(s.lastUsed) > t.ttl {
			delete(t.byID, id)
			s.close()
		}
	}
}

func (t *sessionTable) evictLocked() {
	var oldest *httpSession
	for _, s := range t.byID {
		if s.users == 0 && (oldest == nil || s.lastUsed.Before(oldest.lastUsed)) {
			oldest = s
		}
	}
	if oldest != nil {
		delete(t.byID, oldest.publicID)
		oldest.close()
	}
}

// count returns the number of sessions.
func (t *sessionTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}
