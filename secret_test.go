package microsandbox_test

import (
	"errors"
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
	// Its value is not kept: who wants it started again is told before it is stopped, and what to do.
	_, err := h.Restart(ctxOf(t))
	var e *microsandbox.Error
	if wantKind(t, err, microsandbox.ErrInvalidConfig); !errors.As(err, &e) || !strings.Contains(e.Error(), "API_KEY") || !strings.Contains(e.Hint(), "msb modify secret --secret") || strings.Contains(err.Error(), value) {
		t.Errorf("a restart without the value: %v", err)
	}
	if got := shell(t, sb, "echo up"); got != "up" {
		t.Errorf("after a restart that was refused: %q", got)
	}
	t.Setenv("API_KEY", value)
	plan := must[*microsandbox.SandboxModificationPlan](t)(h.Modify(ctxOf(t), microsandbox.ModifyOptions{Policy: microsandbox.ModificationPolicyNextStart, Secrets: map[string]microsandbox.SecretModifySpec{"API_KEY": {}}}))
	if !plan.Applied || len(plan.Changes) != 1 || plan.Changes[0].Change != "rotated" || len(plan.Changes[0].AllowHosts) != 1 {
		t.Errorf("the plan is %+v", plan)
	}
	again := must[*microsandbox.Sandbox](t)(h.Restart(ctxOf(t)))
	if got := shell(t, again, `echo "$API_KEY"`); got != "$MSB_API_KEY" {
		t.Errorf("after a restart the guest has %q", got)
	}
	c := must[*microsandbox.SandboxConfig](t)(h.Config())
	if len(c.Secrets) != 1 || c.Secrets[0].EnvVar != "API_KEY" || c.Secrets[0].Value != "" || c.Network == nil || c.Network.TLS == nil {
		t.Errorf("the record's secrets are %+v", c.Secrets)
	}
}
