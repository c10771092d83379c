package local

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/microsandbox-go/microsandbox/internal/network/ca"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// proxy collects from this machine what the runner needs to look into the connections of a sandbox: certificates, and the
// values of secrets as they are now. It returns nil where there is nothing to be collected. n has its defaults.
func (b *Backend) proxy(n sandbox.Network) (*launch.Proxy, error) {
	var p launch.Proxy
	if t := n.TLS; t != nil && t.Enabled {
		var err error
		if t.InterceptCA != nil {
			p.CACert, p.CAKey, err = ca.Read(t.InterceptCA.CertPath, t.InterceptCA.KeyPath)
		} else {
			p.CACert, p.CAKey, err = ca.Open(b.cfg.Home)
		}
		if err != nil {
			return nil, badFile("read the certificate authority", err)
		}
		scoped := t.ScopedUpstreamCACert
		for _, path := range t.UpstreamCACert {
			scoped = append([]sandbox.ScopedCACert{{Path: path}}, scoped...)
		}
		for _, s := range scoped {
			pem, err := ca.ReadPEM(s.Path)
			if err != nil {
				return nil, badFile("read an upstream certificate authority", err)
			}
			p.Upstream = append(p.Upstream, launch.Authority{Pattern: s.Pattern, PEM: pem})
		}
	}
	if n.TrustHostCAs {
		var err error
		if p.HostCAs, err = ca.HostBundle(); err != nil {
			return nil, badFile("read what this machine trusts", err)
		}
	}
	if n.Secrets != nil {
		for _, s := range n.Secrets.Secrets {
			v, err := secretValue(s)
			if err != nil {
				return nil, err
			}
			p.Secrets = append(p.Secrets, v)
		}
	}
	if o := n.OutboundProxy; o != nil && o.PasswordEnv != "" {
		var err error
		if p.Password, err = fromEnv("the proxy's password", o.PasswordEnv); err != nil {
			return nil, err
		}
	}
	if p.CACert == nil && p.HostCAs == nil && p.Secrets == nil && p.Password == "" {
		return nil, nil
	}
	return &p, nil
}

func badFile(what string, err error) error {
	return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: what, Err: err}
}

// newValues are the values of secrets by their variables.
func newValues(secrets []sandbox.Secret) (map[string]string, error) {
	values := map[string]string{}
	for _, s := range secrets {
		v, err := secretValue(s)
		if err != nil {
			return nil, err
		}
		values[s.EnvVar] = v
	}
	return values, nil
}

// secretValue finds a value. Its errors name the variable, and nothing that is in it.
func secretValue(s sandbox.Secret) (string, error) {
	v := s.Value.Reveal()
	switch {
	case s.Source == nil && v == "":
		return "", &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("the secret %s has no value", s.EnvVar), Hint: "it is not kept with the sandbox: give it again"}
	case s.Source != nil && s.Source.Kind == sandbox.SecretFromStore:
		return "", &sandbox.Error{Kind: sandbox.Unsupported, Message: fmt.Sprintf("the secret %s is in a store, and this machine has none", s.EnvVar), Hint: "put it into an environment variable"}
	case s.Source != nil:
		var err error
		if v, err = fromEnv("the secret "+s.EnvVar, s.Source.Var); err != nil {
			return "", err
		}
	}
	if len(v) > sandbox.MaxSecretValue {
		return "", &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("the secret %s is larger than %d KiB", s.EnvVar, sandbox.MaxSecretValue>>10)}
	}
	return v, nil
}

// CheckStart says what is missing of the files, variables and values that the sandbox's next start reads.
func (b *Backend) CheckStart(_ context.Context, info sandbox.Info) error {
	row, err := b.row(info.Ref)
	if err != nil {
		return err
	}
	n := row.Spec.WithDefaults().Network
	if err := b.unseal(row, &n); err != nil {
		return err
	}
	_, err = b.proxy(n)
	return err
}

func fromEnv(what, name string) (string, error) {
	if v := os.Getenv(name); v != "" {
		return v, nil
	}
	return "", &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("%s is the value of the environment variable %s, which is not set or empty", what, name),
		Hint: "set it where msb runs: export " + name + "=..."}
}

// withValues returns recorded secrets with the values that who created the sandbox gave: records have none.
func withValues(recorded, given *sandbox.Secrets) *sandbox.Secrets {
	if recorded == nil || given == nil || len(recorded.Secrets) != len(given.Secrets) {
		return recorded
	}
	c := *recorded
	c.Secrets = slices.Clone(c.Secrets)
	for i, g := range given.Secrets {
		if c.Secrets[i].EnvVar == g.EnvVar {
			c.Secrets[i].Value = g.Value
		}
	}
	return &c
}
