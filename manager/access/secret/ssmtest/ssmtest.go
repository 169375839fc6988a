// Package ssmtest is a parameter store of AWS for tests: it checks signatures as AWS does,
// and gives parameters to whoever signed with its keys.
package ssmtest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// The keys of the user whose keys the server knows.
const (
	AccessKeyID     = "AKIADRAWBRIDGE000002"
	SecretAccessKey = "p4rameters/Key+0123456789abcdefghijklmno"
)

// Region is where the parameters are.
const Region = "eu-central-1"

// Server is an HTTP server on loopback.
type Server struct {
	URL string

	mu         sync.Mutex
	parameters map[string]string // guarded by mu; by name
	failures   []failure         // guarded by mu; answers to the next requests
	requests   int               // guarded by mu
}

type failure struct {
	status int
	code   string
}

// Start starts a server with parameters.
func Start(t testing.TB, parameters map[string]string) *Server {
	t.Helper()
	s := &Server{parameters: parameters}
	web := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(web.Close)
	s.URL = web.URL
	return s
}

// Use has this process use the server, with the keys that it knows.
func (s *Server) Use(t *testing.T) {
	t.Helper()
	empty := t.TempDir()
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_SSM": s.URL, "AWS_REGION": Region, "AWS_ACCESS_KEY_ID": AccessKeyID, "AWS_SECRET_ACCESS_KEY": SecretAccessKey,
		"AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_CONFIG_FILE": empty + "/config", "AWS_SHARED_CREDENTIALS_FILE": empty + "/credentials",
		"AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
}

// Fail has one more request, after those that are to fail already, answered with an error
// of AWS.
func (s *Server) Fail(status int, code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, failure{status, code})
}

// Requests returns how many there were.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

func (s *Server) serve(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	switch {
	case len(s.failures) > 0:
		f := s.failures[0]
		s.failures = s.failures[1:]
		fail(w, f.status, f.code)
		return
	case err != nil || req.Method != http.MethodPost || req.URL.Path != "/" || req.Header.Get("X-Amz-Target") != "AmazonSSM.GetParameter" || req.Header.Get("Content-Type") != "application/x-amz-json-1.1":
		fail(w, http.StatusBadRequest, "UnknownOperationException")
		return
	case !isSigned(req, body):
		fail(w, http.StatusBadRequest, "InvalidSignatureException")
		return
	}
	var asked struct {
		Name           string
		WithDecryption bool
	}
	value, known := "", false
	if json.Unmarshal(body, &asked) == nil && asked.WithDecryption {
		value, known = s.parameters[asked.Name]
	}
	if !known {
		fail(w, http.StatusBadRequest, "ParameterNotFound")
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(map[string]any{"Parameter": map[string]string{"Name": asked.Name, "Type": "SecureString", "Value": value}})
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": "com.amazonaws.ssm#" + code, "message": "what AWS says"})
}

// isSigned signs the request anew, and compares.
func isSigned(req *http.Request, body []byte) bool {
	at, err := time.Parse("20060102T150405Z", req.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(at).Abs() > 15*time.Minute {
		return false
	}
	again := &http.Request{Method: req.Method, URL: req.URL, Host: req.Host, Header: http.Header{}, ContentLength: req.ContentLength}
	url := *req.URL
	url.Scheme, url.Host = "http", req.Host
	again.URL = &url
	_, signed, _ := strings.Cut(req.Header.Get("Authorization"), "SignedHeaders=")
	signed, _, _ = strings.Cut(signed, ",")
	for name := range strings.SplitSeq(signed, ";") {
		if values := req.Header.Values(name); len(values) > 0 {
			again.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	sum := sha256.Sum256(body)
	keys := aws.Credentials{AccessKeyID: AccessKeyID, SecretAccessKey: SecretAccessKey}
	if err := v4.NewSigner().SignHTTP(req.Context(), keys, again, hex.EncodeToString(sum[:]), "ssm", Region, at); err != nil {
		return false
	}
	return again.Header.Get("Authorization") == req.Header.Get("Authorization") && strings.Contains(signed, "x-amz-target")
}
