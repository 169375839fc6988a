package proxy

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// Certificates are valid by the clock of the moment, wherever it has been set.
func TestLeafIsValidAfterTheClockIsSet(t *testing.T) {
	t.Parallel()
	a, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	host, err := policy.ParseHost("api.test")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.certificate)
	made := time.Now()
	const day = 24 * time.Hour
	last := ""
	for _, test := range []struct {
		after time.Duration
		isNew bool
	}{
		{0, true}, {time.Minute, false}, {5 * day, false}, {6*day + time.Hour, true}, {30 * day, true}, {0, true}, {-time.Minute, false},
		{-30 * day, true}, {-4 * 365 * day, true}, {authorityLife - day, true}, {authorityLife - time.Hour, false}, {0, true},
	} {
		now := made.Add(test.after)
		a.now = func() time.Time { return now }
		leaf, err := a.leaf(host)
		if err != nil {
			t.Fatalf("after %v: %v", test.after, err)
		}
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{DNSName: "api.test", Roots: roots, CurrentTime: now}); err != nil {
			t.Errorf("after %v: %v", test.after, err)
		}
		serial := leaf.Leaf.SerialNumber.String()
		if (serial != last) != test.isNew {
			t.Errorf("after %v: a new one was made: %t", test.after, serial != last)
		}
		last = serial
	}
	for _, after := range []time.Duration{authorityLife + day, -authorityPast - day} {
		now := made.Add(after)
		a.now = func() time.Time { return now }
		if _, err := a.leaf(host); err == nil || !strings.Contains(err.Error(), "set the clock") {
			t.Errorf("after %v: %v", after, err)
		}
	}
}
