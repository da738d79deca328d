// certinfo creates a certificate authority with a server's certificate, and inspects certificates.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"tools.example/internal/cli"
)

const usage = `certinfo make DIRECTORY HOST | inspect FILE | verify CA FILE HOST`

type certificate struct {
	Subject   string   `json:"subject"`
	Issuer    string   `json:"issuer"`
	Names     []string `json:"names,omitempty"`
	Authority bool     `json:"authority"`
	Days      int      `json:"days_left"`
	Algorithm string   `json:"algorithm"`
	SHA256    string   `json:"sha256"`
}

func main() {
	cli.Main("certinfo", run)
}

func run(arguments []string, out io.Writer) error {
	words, err := cli.Parse(cli.Flags(usage), arguments, len(arguments))
	switch {
	case err != nil:
		return err
	case len(words) == 3 && words[0] == "make":
		return create(words[1], words[2])
	case len(words) == 2 && words[0] == "inspect":
		return inspect(words[1], out)
	case len(words) == 4 && words[0] == "verify":
		return verify(words[1], words[2], words[3])
	}
	fmt.Fprintln(os.Stderr, "usage: "+usage)
	return cli.ErrUsage
}

func create(directory, host string) error {
	authority := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "certinfo authority"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	authorityKey, err := sign(authority, authority, nil, filepath.Join(directory, "ca"))
	if err != nil {
		return err
	}
	server := &x509.Certificate{
		Subject:     pkix.Name{CommonName: host},
		DNSNames:    []string{host},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	_, err = sign(server, authority, authorityKey, filepath.Join(directory, "server"))
	return err
}

// sign completes a certificate and writes it and its key to PATH.pem and PATH.key. Without a signer it signs itself.
func sign(what, parent *x509.Certificate, signer *ecdsa.PrivateKey, path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if signer == nil {
		signer = key
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	what.SerialNumber = serial
	what.NotBefore = time.Now().Add(-time.Hour)
	what.NotAfter = what.NotBefore.AddDate(0, 0, 31)
	der, err := x509.CreateCertificate(rand.Reader, what, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	encoded, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := write(path+".pem", "CERTIFICATE", der, 0o644); err != nil {
		return nil, err
	}
	return key, write(path+".key", "EC PRIVATE KEY", encoded, 0o600)
}

func write(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

func read(path string) ([]*x509.Certificate, error) {
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		parsed, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		found = append(found, parsed)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: no certificate", path)
	}
	return found, nil
}

func inspect(path string, out io.Writer) error {
	found, err := read(path)
	if err != nil {
		return err
	}
	var shown []certificate
	for _, one := range found {
		sum := sha256.Sum256(one.Raw)
		shown = append(shown, certificate{
			Subject:   one.Subject.String(),
			Issuer:    one.Issuer.String(),
			Names:     one.DNSNames,
			Authority: one.IsCA,
			Days:      int(time.Until(one.NotAfter).Hours() / 24),
			Algorithm: one.PublicKeyAlgorithm.String(),
			SHA256:    hex.EncodeToString(sum[:]),
		})
	}
	return cli.PrintJSON(out, shown)
}

func verify(authority, path, host string) error {
	trusted, err := read(authority)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	for _, one := range trusted {
		roots.AddCert(one)
	}
	chain, err := read(path)
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, one := range chain[1:] {
		between.AddCert(one)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host})
	var wrongName x509.HostnameError
	if errors.As(err, &wrongName) {
		return fmt.Errorf("the certificate is for %v and not for %s", wrongName.Certificate.DNSNames, host)
	}
	return err
}
