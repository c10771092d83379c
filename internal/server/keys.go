package server

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TokenPrefix is what every API key begins with; a JWT follows (contract server-v0.2 §1.4).
const TokenPrefix = "msb_"

// Files in the state root.
const (
	SecretFile = "server.key"       // what API keys are signed with, as text
	recordFile = "server.keys.json" // which were made, and which are revoked
	recordLock = "server.keys.lock"
)

const (
	secretLen = 32
	maxSecret = 4096
	leeway    = time.Minute
	// DefaultLife is how long a key is good for that nobody said it of.
	DefaultLife = 24 * time.Hour
)

// Keys know which API keys are good. The secret that they are signed with is read once; revocations are seen at once, whoever
// makes them.
type Keys struct {
	home   string
	secret []byte

	mu      sync.Mutex
	seen    unix.Stat_t // of the record file when it was read
	records map[string]Key
}

// Key is what is recorded of an API key. The key itself is not.
type Key struct {
	ID        string     `json:"id"` // the first 16 hex digits of its SHA-256
	Namespace string     `json:"namespace"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt time.Time  `json:"expires_at"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
	// SignedBy names the secret that it was signed with; "" is not known. All says whether that is another one by now.
	SignedBy  string `json:"signed_by,omitempty"`
	worthless bool
}

// State is active, expired, revoked, or worthless, when the server's key is another one by now.
func (k Key) State(now time.Time) string {
	switch {
	case k.RevokedAt != nil:
		return "revoked"
	case now.After(k.ExpiresAt):
		return "expired"
	case k.worthless:
		return "worthless"
	}
	return "active"
}

// OpenKeys reads the secret from file, "" being SecretFile in home. Kind: NotFound when there is none.
func OpenKeys(home, file string) (*Keys, error) {
	if file == "" {
		file = filepath.Join(home, SecretFile)
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &sandbox.Error{Kind: sandbox.NotFound, Err: errors.New("Server key file not found. Make sure the server is running in secure mode.")}
	}
	if err != nil {
		return nil, &sandbox.Error{Op: "read key", Kind: sandbox.IO, Message: "read the server's key", Err: err}
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if err := checkSecret(secret); err != nil {
		return nil, err
	}
	return &Keys{home: home, secret: []byte(secret)}, nil
}

// SaveSecret writes the secret of home for its owner only; "" makes a new one. Keys that were signed with another are no good any
// more.
func SaveSecret(home, secret string) error {
	if secret == "" {
		secret = newSecret()
	}
	if err := checkSecret(secret); err != nil {
		return err
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return &sandbox.Error{Op: "save key", Kind: sandbox.IO, Message: "make " + home, Err: err}
	}
	if err := atomicfile.WriteSync(filepath.Join(home, SecretFile), []byte(secret), 0o600); err != nil {
		return &sandbox.Error{Op: "save key", Kind: sandbox.IO, Message: "save the server's key", Err: err}
	}
	return nil
}

func checkSecret(s string) error {
	if len(s) == 0 || len(s) > maxSecret {
		return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("the server's key has %d bytes: want 1 to %d", len(s), maxSecret),
			Hint: "make a new one with: msb server start --reset-key"}
	}
	return nil
}

// newSecret is 32 random letters and digits.
func newSecret() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, 0, secretLen)
	var b [64]byte
	for len(out) < secretLen {
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		for _, c := range b {
			if int(c) < 256/len(alphabet)*len(alphabet) && len(out) < secretLen { // all letters alike
				out = append(out, alphabet[int(c)%len(alphabet)])
			}
		}
	}
	return string(out)
}

// claims are those of contract server-v0.2 §1.4, all needed. Audience is none that a key may have.
type claims struct {
	Expires   *uint64         `json:"exp"`
	Issued    *uint64         `json:"iat"`
	Namespace *string         `json:"namespace"`
	Audience  json.RawMessage `json:"aud,omitempty"`
}

func (c claims) GetExpirationTime() (*jwt.NumericDate, error) { return numericDate(c.Expires) }
func (c claims) GetIssuedAt() (*jwt.NumericDate, error)       { return nil, nil } // it may be in the future: clocks differ
func (c claims) GetNotBefore() (*jwt.NumericDate, error)      { return nil, nil }
func (c claims) GetIssuer() (string, error)                   { return "", nil }
func (c claims) GetSubject() (string, error)                  { return "", nil }
func (c claims) GetAudience() (jwt.ClaimStrings, error)       { return nil, nil }

// farthest is the last second that times are counted in here: the end of the year 9999.
const farthest = 253402300799

func numericDate(s *uint64) (*jwt.NumericDate, error) {
	if s == nil {
		return nil, nil
	}
	return jwt.NewNumericDate(time.Unix(int64(min(*s, farthest)), 0)), nil
}

// Validate is called by jwt after the signature and the times.
func (c claims) Validate() error {
	switch {
	case c.Issued == nil:
		return errors.New("no iat")
	case c.Namespace == nil || *c.Namespace == "":
		return errors.New("no namespace")
	case c.Audience != nil:
		return errors.New("it is for another audience")
	}
	return nil
}

// Make makes an API key for a namespace, or for AllNamespaces, and records it.
func (k *Keys) Make(namespace string, life time.Duration) (token string, key Key, err error) {
	if namespace != AllNamespaces {
		if err := (sandbox.Ref{Namespace: namespace, Name: "any"}).Validate(); err != nil {
			return "", Key{}, err
		}
	}
	now := time.Now().UTC().Truncate(time.Second)
	end := now.Add(life)
	if end.Unix() > farthest || end.Before(now) {
		end = time.Unix(farthest, 0).UTC()
	}
	exp, iat := uint64(end.Unix()), uint64(now.Unix())
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{Expires: &exp, Issued: &iat, Namespace: &namespace}).SignedString(k.secret)
	if err != nil {
		return "", Key{}, err
	}
	token = TokenPrefix + signed
	key = Key{ID: KeyID(token), Namespace: namespace, CreatedAt: now, ExpiresAt: end, SignedBy: k.signer()}
	if have, err := k.find(key.ID); err == nil && have.RevokedAt != nil {
		// The same claims are the same key. A second later they are not.
		time.Sleep(time.Until(now.Add(time.Second)))
		return k.Make(namespace, life)
	}
	return token, key, k.change(func(all map[string]Key) error { all[key.ID] = key; return nil })
}

func (k *Keys) find(id string) (Key, error) {
	if err := k.refresh(); err != nil {
		return Key{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key, ok := k.records[id]
	if !ok {
		return Key{}, &sandbox.Error{Kind: sandbox.NotFound}
	}
	return key, nil
}

// KeyID names an API key without telling it.
func KeyID(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:8])
}

// Verify says whose a key is. Its errors are for the log.
func (k *Keys) Verify(token string) (Caller, error) {
	// One key has one spelling, or a revoked one would come back as another.
	if strings.ContainsFunc(token, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
	}) {
		return Caller{}, errors.New("it has characters that no key has")
	}
	var c claims
	_, err := jwt.ParseWithClaims(strings.TrimPrefix(token, TokenPrefix), &c, func(*jwt.Token) (any, error) { return k.secret, nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithLeeway(leeway), jwt.WithExpirationRequired(), jwt.WithStrictDecoding())
	if err != nil {
		return Caller{}, err
	}
	id := KeyID(token)
	if err := k.Live(id); err != nil {
		return Caller{}, err
	}
	return Caller{Namespace: *c.Namespace, KeyID: id}, nil
}

// still is the error of a key that is no good any more. That the records cannot be read for a moment does not make one so.
func (k *Keys) still(token string) error {
	if _, err := k.Verify(token); err != nil && sandbox.KindOf(err) != sandbox.IO {
		return err
	}
	return nil
}

// Live is the error of a key, by its ID, that was revoked. One that is not recorded is not known to be.
func (k *Keys) Live(id string) error {
	key, err := k.find(id)
	switch {
	case err == nil && key.RevokedAt != nil:
		return fmt.Errorf("key %s is revoked", id)
	case err != nil && sandbox.KindOf(err) != sandbox.NotFound:
		return err
	}
	return nil
}

// Secret derives a secret for another purpose.
func (k *Keys) Secret(purpose string) []byte {
	sum := sha256.Sum256(slices.Concat([]byte("microsandbox "+purpose+"\x00"), k.secret))
	return sum[:]
}

// ValuesKey is what values of secrets that were given inline are kept under.
func (k *Keys) ValuesKey() []byte { return k.Secret("values of secrets") }

// signer names the secret without telling it.
func (k *Keys) signer() string { return hex.EncodeToString(k.Secret("signer")[:8]) }

// All returns what is recorded, newest first.
func (k *Keys) All() ([]Key, error) {
	if err := k.refresh(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make([]Key, 0, len(k.records))
	for _, key := range k.records {
		key.worthless = key.SignedBy != "" && key.SignedBy != k.signer()
		all = append(all, key)
	}
	slices.SortFunc(all, func(a, b Key) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, nil
}

// Revoke makes a key worthless, from now on and for ever; id may be a prefix of eight digits. Kind: NotFound.
func (k *Keys) Revoke(id string) (Key, error) {
	var revoked Key
	err := k.change(func(all map[string]Key) error {
		var found []string
		for have := range all {
			if have == id || len(id) >= 8 && strings.HasPrefix(have, id) {
				found = append(found, have)
			}
		}
		if len(found) != 1 {
			return &sandbox.Error{Op: "revoke", Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("there is no key %q", clip(id)), Hint: "see them with: msb server keys list"}
		}
		revoked = all[found[0]]
		if revoked.RevokedAt == nil {
			now := time.Now().UTC().Truncate(time.Second)
			revoked.RevokedAt = &now
		}
		all[revoked.ID] = revoked
		return nil
	})
	return revoked, err
}

// refresh reads the record file if it changed.
func (k *Keys) refresh() error {
	path := filepath.Join(k.home, recordFile)
	k.mu.Lock()
	defer k.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &sandbox.Error{Op: "read keys", Kind: sandbox.IO, Message: "read " + path, Err: err}
	}
	if k.records != nil && st.Ino == k.seen.Ino && st.Mtim == k.seen.Mtim && st.Size == k.seen.Size {
		return nil
	}
	records, err := readRecords(path)
	if err != nil {
		return err
	}
	k.records, k.seen = records, st
	return nil
}

func readRecords(path string) (map[string]Key, error) {
	data, err := os.ReadFile(path)
	var all []Key
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &sandbox.Error{Op: "read keys", Kind: sandbox.IO, Message: "read " + path, Err: err}
	}
	records := make(map[string]Key, len(all))
	for _, key := range all {
		records[key.ID] = key
	}
	return records, nil
}

// forgotten is how long after its end a key is still listed.
const forgotten = 30 * 24 * time.Hour

// change rewrites the record file, one process at a time.
func (k *Keys) change(with func(map[string]Key) error) error {
	lock, err := lockFile(filepath.Join(k.home, recordLock))
	if err != nil {
		return err
	}
	defer lock.Close()
	path := filepath.Join(k.home, recordFile)
	records, err := readRecords(path)
	if err != nil {
		return err
	}
	if err := with(records); err != nil {
		return err
	}
	all := make([]Key, 0, len(records))
	for _, key := range records {
		if time.Since(key.ExpiresAt) < forgotten {
			all = append(all, key)
		}
	}
	slices.SortFunc(all, func(a, b Key) int { return strings.Compare(a.ID, b.ID) })
	data, err := json.MarshalIndent(all, "", "  ")
	if err == nil {
		err = atomicfile.WriteSync(path, data, 0o600)
	}
	if err != nil {
		return &sandbox.Error{Op: "save keys", Kind: sandbox.IO, Message: "save " + path, Err: err}
	}
	return nil
}

// lockFile waits for a lock that the end of its process or Close gives back.
func lockFile(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, &sandbox.Error{Op: "lock", Kind: sandbox.IO, Message: "make " + filepath.Dir(path), Err: err}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &sandbox.Error{Op: "lock", Kind: sandbox.IO, Message: "open " + path, Err: err}
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, &sandbox.Error{Op: "lock", Kind: sandbox.IO, Message: "lock " + path, Err: err}
	}
	return f, nil
}
