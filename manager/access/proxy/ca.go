package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

const (
	authorityLife = 5 * 365 * 24 * time.Hour
	leafLife      = 7 * 24 * time.Hour
	// clockSkew is how far a sandbox's clock may be behind that of this host.
	clockSkew = time.Hour
	// authorityPast is how far this host's clock may be set back: the authority is
	// not made anew then, because runs that are up know the one that there is.
	authorityPast = 5 * 365 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is made anew.
	renewBefore = 24 * time.Hour
	// maxLeaves bounds the certificates that are kept: about 3 KiB each.
	maxLeaves = 1024
)

// Names of the authority's files in its directory.
const (
	certificateFile = "ca.pem"
	keyFile         = "ca.key"
)

// Authority makes the certificates that the gate shows to a sandbox in place of
// those of a server whose requests it looks into. One belongs to each home. Its
// key stays on the host; sandboxes get the certificate. It is safe for concurrent
// use.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
	now         func() time.Time

	making singleflight.Group
	mu     sync.Mutex
	leaves map[string]*tls.Certificate // guarded by mu; by the host's name
}

// OpenAuthority returns the authority in dir, which it makes if there is none. One
// that has expired, or will within a month, is replaced: sandboxes that are
// running do not know the new one.
//
// Processes that open the same directory at once must be kept apart by the caller.
func OpenAuthority(dir string) (*Authority, error) {
	a, err := readAuthority(dir)
	if err == nil && a.certificate.NotAfter.Sub(a.now()) > 30*24*time.Hour {
		return a, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the certificate authority in %s: %w; remove that directory to have a new one made, which runs that are up will not know", dir, err)
	}
	if a, err = makeAuthority(dir); err != nil {
		return nil, fmt.Errorf("make a certificate authority in %s: %w", dir, err)
	}
	return a, nil
}

// PEM returns the authority's certificate.
func (a *Authority) PEM() []byte { return a.pem }

// Certificate returns a certificate for a host name of this machine's, for whoever
// trusts the authority.
func (a *Authority) Certificate(name string) (*tls.Certificate, error) {
	host, err := policy.ParseHost(name)
	if err != nil {
		return nil, err
	}
	return a.leaf(host)
}

func readAuthority(dir string) (*Authority, error) {
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others can read its key; run `chmod 600 %s`", filepath.Join(dir, keyFile))
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, certificateFile), filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, errors.New("it is not one that this program made")
	}
	return newAuthority(pair.Leaf, key), nil
}

func newAuthority(certificate *x509.Certificate, key *ecdsa.PrivateKey) *Authority {
	return &Authority{
		certificate: certificate, key: key, now: time.Now, leaves: make(map[string]*tls.Certificate),
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}),
	}
}

func makeAuthority(dir string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		// Programs tell authorities apart by name: each home's has its own.
		Subject:   pkix.Name{CommonName: fmt.Sprintf("Drawbridge gate %x", serial.Bytes()[:4]), Organization: []string{"Drawbridge"}},
		NotBefore: now.Add(-authorityPast), NotAfter: now.Add(authorityLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true,
		IsCA: true, MaxPathLenZero: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	a := newAuthority(certificate, key)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// The certificate first: a key alone would look like a damaged authority,
	// and a certificate alone like none.
	if err := writeFile(filepath.Join(dir, certificateFile), a.pem); err != nil {
		return nil, err
	}
	return a, writeFile(filepath.Join(dir, keyFile), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}))
}

// writeFile writes a file that only its owner reads, whole or not at all.
func writeFile(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return serial.SetBit(serial, 120, 1), nil // never zero, and always as long
}

// leaf returns a certificate for a host.
func (a *Authority) leaf(host policy.Host) (*tls.Certificate, error) {
	name := host.String()
	if found := a.kept(name); found != nil {
		return found, nil
	}
	made, err, _ := a.making.Do(name, func() (any, error) {
		// Whoever saw none above may come here after another has made it.
		if found := a.kept(name); found != nil {
			return found, nil
		}
		leaf, err := a.makeLeaf(host)
		if err != nil {
			return nil, err
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		for other := range a.leaves {
			if len(a.leaves) < maxLeaves {
				break
			}
			delete(a.leaves, other) // any: making one costs less than keeping account
		}
		a.leaves[name] = leaf
		return leaf, nil
	})
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", name, err)
	}
	return made.(*tls.Certificate), nil
}

// kept returns the certificate that is kept for a host and can be shown, or nil.
func (a *Authority) kept(name string) *tls.Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	if found := a.leaves[name]; found != nil && a.isGood(found.Leaf) {
		return found
	}
	return nil
}

// isGood tells whether a certificate can be shown: the clock may have been set since
// it was made.
func (a *Authority) isGood(leaf *x509.Certificate) bool {
	now := a.now()
	left := leaf.NotAfter.Sub(now)
	return !now.Before(leaf.NotBefore) && (left > renewBefore || left > 0 && leaf.NotAfter.Equal(a.certificate.NotAfter))
}

func (a *Authority) makeLeaf(host policy.Host) (*tls.Certificate, error) {
	now := a.now()
	switch own := a.certificate; {
	case now.Before(own.NotBefore):
		return nil, fmt.Errorf("the gate's authority is valid from %s, and this host's clock says %s; set the clock", own.NotBefore.Format(time.DateOnly), now.Format(time.DateTime))
	case now.After(own.NotAfter):
		return nil, fmt.Errorf("the gate's authority was valid until %s; set the clock of this host, or end all runs of the home: five minutes later the next run gets another one", own.NotAfter.Format(time.DateOnly))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	end := now.Add(leafLife)
	if end.After(a.certificate.NotAfter) {
		end = a.certificate.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    now.Add(-clockSkew), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if addr, is := host.Addr(); is {
		template.IPAddresses = []net.IP{addr.AsSlice()}
	} else {
		template.DNSNames = []string{host.String()}
	}
	if name := host.String(); len(name) <= 64 { // the longest that X.520 allows
		template.Subject.CommonName = name
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{raw, a.certificate.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// Fingerprint identifies the authority: SHA-256 of its certificate.
func (a *Authority) Fingerprint() string { return fmt.Sprintf("%x", sha256.Sum256(a.certificate.Raw)) }
