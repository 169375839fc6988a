package daemon

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"software.sslmate.com/src/go-pkcs12"
)

// TrustStorePassword is what Java wants to open the trust store with, which has
// nothing secret in it.
const TrustStorePassword = pkcs12.DefaultPassword

// trustStore returns the certificates of a bundle in the form that Java reads. What
// Go cannot parse is left out.
func trustStore(bundle []byte) ([]byte, error) {
	var all []*x509.Certificate
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, c)
		}
	}
	data, err := pkcs12.Modern.EncodeTrustStore(all, TrustStorePassword)
	if err != nil {
		return nil, fmt.Errorf("write the trust store for Java: %w", err)
	}
	return data, nil
}
