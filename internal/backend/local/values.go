package local

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var _ backend.Keeper = (*Backend)(nil)

// KeepValues has values of secrets that are given inline kept, encrypted under key.
func (b *Backend) KeepValues(key []byte) {
	key = bytes.Clone(key)
	b.values.Store(&key)
}

// keptUnder is what the values are encrypted with, nil where nothing is kept.
func (b *Backend) keptUnder() (cipher.AEAD, error) {
	key := b.values.Load()
	if key == nil && b.cfg.ValuesKey != nil {
		if k := b.cfg.ValuesKey(); k != nil {
			key = &k
		}
	}
	if key == nil {
		return nil, nil
	}
	block, err := aes.NewCipher(*key)
	if err != nil {
		return nil, fmt.Errorf("the key of kept values: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// inline are the secrets whose values are nowhere but in the request.
func inline(all []sandbox.Secret) []sandbox.Secret {
	return slices.DeleteFunc(slices.Clone(all), func(s sandbox.Secret) bool { return s.Source != nil })
}

// secretsOf are the secrets of a network.
func secretsOf(n sandbox.Network) []sandbox.Secret {
	if n.Secrets == nil {
		return nil
	}
	return n.Secrets.Secrets
}

// seal encrypts the values that were given inline for the sandbox with an ID, whose only they are then. It returns "" where there are
// none, or nothing to keep them under.
func (b *Backend) seal(id string, n sandbox.Network) (string, error) {
	values := map[string]string{}
	for _, s := range inline(secretsOf(n)) {
		if v := s.Value.Reveal(); v != "" {
			values[s.EnvVar] = v
		}
	}
	if len(values) == 0 {
		return "", nil
	}
	aead, err := b.keptUnder()
	if aead == nil || err != nil {
		return "", err
	}
	plain, err := json.Marshal(values)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(aead.Seal(nil, nil, plain, []byte(id))), nil
}

// sealNext encrypts the values of what the secrets of a recorded sandbox are to be; of those that are not given anew what was kept stays.
// A given value that is in use at once may be lost with this run, as that of a sandbox that nothing is kept of. Kind: Unsupported where
// another would be lost.
func (b *Backend) sealNext(row state.Row, next sandbox.Network, given []sandbox.Secret, live bool) (string, error) {
	if aead, err := b.keptUnder(); err != nil {
		return "", err
	} else if aead == nil {
		if len(given) > 0 && !live {
			return "", &sandbox.Error{Op: "modify", Ref: row.Ref, Kind: sandbox.Unsupported, Message: "the value of the secret " + given[0].EnvVar + " cannot be kept until the next start: there is no server's key to keep it under",
				Hint: "let it come from an environment variable, or make a key with: msb server start --reset-key"}
		}
		return row.Sealed, nil
	}
	_ = b.unseal(row, &next) // the next start says what is gone
	return b.seal(row.ID, next)
}

// unseal fills in the values that were kept of a recorded sandbox, where it has none. Kind: InvalidConfig, with the secrets whose values
// are gone.
func (b *Backend) unseal(row state.Row, n *sandbox.Network) error {
	var missing []string
	for _, s := range inline(secretsOf(*n)) {
		if s.Value.Reveal() == "" {
			missing = append(missing, s.EnvVar)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	gone := func(why string) error {
		return &sandbox.Error{Op: "start", Ref: row.Ref, Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("the values of its secrets are gone (%s): %s", strings.Join(missing, ", "), why),
			Hint: "make the sandbox anew with them, or change where they come from: msb modify " + string(row.Ref.Name) + " --secret NAME@HOST"}
	}
	if row.Sealed == "" {
		return gone("they were given inline and not kept")
	}
	aead, err := b.keptUnder()
	switch {
	case err != nil:
		return err
	case aead == nil:
		return gone("they are kept under a server's key, and there is none here")
	}
	var values map[string]string
	sealed, err := base64.StdEncoding.DecodeString(row.Sealed)
	if err == nil {
		var plain []byte
		if plain, err = aead.Open(nil, nil, sealed, []byte(row.ID)); err == nil {
			err = json.Unmarshal(plain, &values)
		}
	}
	if err != nil {
		return gone("they were kept under another key of the server, which was reset")
	}
	all := *n.Secrets
	all.Secrets = slices.Clone(all.Secrets)
	for i, s := range all.Secrets {
		if s.Source == nil && s.Value.Reveal() == "" {
			all.Secrets[i].Value = sandbox.SecretValue(values[s.EnvVar])
		}
	}
	n.Secrets = &all
	missing = slices.DeleteFunc(missing, func(name string) bool { return values[name] != "" })
	if len(missing) > 0 {
		return gone("they were not kept")
	}
	return nil
}
