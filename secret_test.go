package microsandbox_test

import (
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox"
)

// TestSecretInSandbox has a guest know a placeholder, and trust this installation's authority.
func TestSecretInSandbox(t *testing.T) {
	home(t)
	const value = "hunter2-of-the-sdk"
	sb := newSandbox(t, "secret", microsandbox.WithSecrets(microsandbox.Secret.Env("API_KEY", value, microsandbox.SecretEnvOptions{AllowHosts: []string{"api.example.com"}})))
	if got := shell(t, sb, `echo "$API_KEY $(grep -c BEGIN /.msb/tls/ca.pem) $SSL_CERT_FILE"`); got != "$MSB_API_KEY 1 /.msb/tls/bundle.pem" {
		t.Errorf("the guest has %q", got)
	}
	h := must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctxOf(t), "secret"))
	if strings.Contains(h.ConfigJSON(), value) {
		t.Error("the record has the value")
	}
	c := must[*microsandbox.SandboxConfig](t)(h.Config())
	if len(c.Secrets) != 1 || c.Secrets[0].EnvVar != "API_KEY" || c.Secrets[0].Value != "" || c.Network == nil || c.Network.TLS == nil {
		t.Errorf("the record's secrets are %+v", c.Secrets)
	}
}
