package router

import (
	"cmp"
	"encoding/json"
	"html/template"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// failure is the content of an answer that is not a sandbox's.
type failure struct {
	Error   string   `json:"error"`
	Message string   `json:"message"`
	Hosts   []string `json:"hosts,omitempty"` // that could be meant
}

func fail(w http.ResponseWriter, status int, code, message string, hosts []string) {
	own(w)
	answer(w, status, failure{code, message, hosts})
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // whoever asked may be gone
}

// own marks an answer as one that no other page embeds or loads, and that none keeps:
// the same name may be a sandbox's a moment later.
func own(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("Referrer-Policy", "no-referrer")
}

// listed is a run as the index shows it.
type listed struct {
	Run       string           `json:"run"`
	ID        string           `json:"id"`
	Endpoints []listedEndpoint `json:"endpoints"`
}

type listedEndpoint struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// index lists the runs and their endpoints, as HTML or as JSON.
func (r *Router) index(w http.ResponseWriter, req *http.Request) {
	switch {
	case req.URL.Path != "/":
		fail(w, http.StatusNotFound, "no_such_page", "there is nothing here but the index, at /", nil)
		return
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "bad_method", "the index is only read", nil)
		return
	}
	runs, err := r.table.AllRouted(req.Context())
	if err != nil {
		fail(w, http.StatusBadGateway, "lookup_failed", "the runs of this home could not be read", nil)
		return
	}
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) })
	all := make([]listed, len(runs))
	for i := range runs {
		all[i] = runs[i].listed(req)
	}
	own(w)
	w.Header().Set("Vary", "Accept")
	if !strings.Contains(req.Header.Get("Accept"), "text/html") {
		answer(w, http.StatusOK, map[string][]listed{"runs": all})
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = page().Execute(w, all)
}

// listed returns what the index shows of a run, with URLs by which whoever asked
// reaches it: of the scheme and port that were used.
func (run *Run) listed(req *http.Request) listed {
	scheme, port := "http", ""
	if req.TLS != nil {
		scheme = "https"
	}
	if _, p, err := net.SplitHostPort(req.Host); err == nil && p != "" {
		port = ":" + p
	}
	shown := listed{Run: run.Name, ID: run.ID, Endpoints: []listedEndpoint{}}
	for _, name := range slices.Sorted(maps.Keys(run.Endpoints)) {
		shown.Endpoints = append(shown.Endpoints, listedEndpoint{name, scheme + "://" + Host(name, run.label()) + port + "/"})
	}
	return shown
}

// label is what stands for the run in host names.
func (run *Run) label() string {
	if IsLabel(run.Name) {
		return run.Name
	}
	return run.ID
}

func (run *Run) hosts() []string {
	var hosts []string
	for _, name := range slices.Sorted(maps.Keys(run.Endpoints)) {
		hosts = append(hosts, Host(name, run.label()))
	}
	return hosts
}

var page = sync.OnceValue(func() *template.Template { return template.Must(template.New("index").Parse(pageText)) })

const pageText = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Drawbridge: runs</title></head>
<body>
<h1>Runs</h1>
{{range .}}<h2>{{.Run}}</h2>
<ul>
{{range .Endpoints}}<li><a href="{{.URL}}" rel="noopener noreferrer">{{.Name}}</a></li>
{{end}}</ul>
{{else}}<p>No run with published ports is up.</p>
{{end}}</body>
</html>
`
