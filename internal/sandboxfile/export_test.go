package sandboxfile

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestExport: what an entry asks for is exported as an entry that asks for the same, word for word in YAML.
func TestExport(t *testing.T) {
	for name, text := range map[string]string{
		"plain":    "image: host",
		"registry": "image: example.com/a/b:1@sha256:" + strings.Repeat("a", 64) + "\nmemory: 64\ncpus: 2\npull_policy: always\nsecurity: restricted",
		"files":    "image: host\nvolumes: ['data:/d:ro,quota=16M', '/h:/h', 'shop:/s:uid=1,gid=2']\ntmpfs: ['/t:16M:noexec', /u]\nroot_disk: 8G",
		"memory":   "image: /bin\nroot_disk: tmpfs:64M\ntmpfs: ['/tmp:3M']",
		"env":      "image: x\nenvs: ['A=', 'B=it''s \"q\": #', 'C=1', 'D=null', \"E=a\\nb\"]\nuser: '1000:5'\nworkdir: /w\nshell: /bin/bash\nhostname: h",
		"limits":   "image: x\nrlimits: [{resource: nofile, soft: 1, hard: 2}, {resource: core, soft: 0}]\nmax_duration: 1h\nidle_timeout: 90",
		"labels":   "image: x\nlabels: {a: b, c.d/e: ''}",
		"ports":    "image: x\nports: [8080:80, '0:9']\nnetwork: {ports: ['0.0.0.0:53:53/udp', '[::1]:1:1']}",
		"none":     "image: x\nnetwork: none",
		"open":     "image: x\nnetwork: open",
		"scope":    "image: x\nscope: any",
		"allow":    "image: x\nnetwork: {allow: ['example.com:tcp:443', '*.example.org'], deny: [private]}",
		"rules":    "image: x\nnetwork: {rules: ['deny@10.0.0.0/8', 'allow@any:tcp:80,443', 'deny:any@[fd00::]/8'], default_egress: allow, default_ingress: deny}",
		"network":  "image: x\nnetwork: {dns: {nameservers: [1.1.1.1], rebind_protection: false, query_timeout: 2s}, tls: {bypass: [a.b], intercepted_ports: [8443], upstream_ca_cert: [/ca.pem]}, trust_host_cas: true, max_connections: 7}",
		"secrets":  "image: x\nsecrets: {KEY: {allow: [a.b, '*.c.d']}, OTHER: {allow: ['*'], inject: [body], require_tls_identity: false}}",
		"start":    "image: x\nscripts: {start: echo 1, other: \"#!/bin/x\\ny\"}",
		"command":  "image: x\ncommand: [a, 'b c']",
		"exec":     "image: x\nexec: a b",
		"restart":  "image: x\ncommand: [a, b]\nrestart: on-failure",
		"again":    "image: x\nscripts: {start: echo}\nrestart: on-failure",
		"both":     "image: x\nentrypoint: [a]\ncmd: [b]",
		"cmd":      "image: x\ncmd: [b]\nstartup: none",
	} {
		f, err := Parse(Name, []byte("sandboxes:\n  web:\n    "+strings.ReplaceAll(text, "\n", "\n    ")))
		if err != nil || len(f.Warnings) > 0 {
			t.Errorf("%s: %v, %v", name, err, f.Warnings)
			continue
		}
		asked, err := f.Sandboxes["web"].Spec("web", Rules{Dir: "/", Plain: true})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		entry, lost := EntryOf(asked.WithDefaults(), []string{"something"})
		if len(lost) > 0 {
			t.Errorf("%s: the entry lost %v", name, lost)
		}
		written, err := (&File{Namespace: "n", Sandboxes: map[string]Sandbox{"web": entry}}).Text([]string{"one\ntwo: three"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		read, err := Parse(Name, written)
		if err != nil || len(read.Warnings) > 0 || read.Namespace != "n" {
			t.Errorf("%s: %v\n%s", name, err, written)
			continue
		}
		again, err := read.Sandboxes["web"].Spec("web", Rules{Dir: "/", Plain: true})
		again.Lifecycle.OutlivesStartup = asked.Lifecycle.OutlivesStartup
		if a, b := facts(asked.WithDefaults()), facts(again.WithDefaults()); err != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %v\n%s\n%v\n%v", name, err, written, a, b)
		}
	}
}

// TestExportLost: what an entry cannot say is named, and values of secrets are nowhere.
func TestExportLost(t *testing.T) {
	for want, change := range map[string]func(*sandbox.Spec){
		"patches":            func(s *sandbox.Spec) { s.Patches = []sandbox.Patch{{Type: sandbox.PatchRemove, Path: "/x"}} },
		"init":               func(s *sandbox.Spec) { s.Init = &sandbox.Init{Cmd: "auto"} },
		"resources.max_cpus": func(s *sandbox.Spec) { s.Resources.MaxCPUs = 4 },
		"mounts": func(s *sandbox.Spec) {
			s.Mounts = []sandbox.Mount{{Type: sandbox.MountBind, Host: "/a:b", Guest: "/c"}}
		},
		"network.strict": func(s *sandbox.Spec) { s.Network.Strict = true },
		"network.outbound_proxy": func(s *sandbox.Spec) {
			s.Network.OutboundProxy = &sandbox.OutboundProxy{Protocol: "socks4", Address: "127.0.0.1:1"}
		},
		"network.tls": func(s *sandbox.Spec) {
			s.Network.TLS = &sandbox.TLS{Enabled: true, Cache: &sandbox.CertificateCache{Capacity: 1}}
		},
		"network.policy": func(s *sandbox.Spec) {
			s.Network.Policy = &sandbox.NetworkPolicy{DefaultEgress: "deny", DefaultIngress: "allow", Rules: []sandbox.NetworkRule{{Direction: "egress", Action: "allow", Destination: sandbox.Destination{DomainSuffix: "com"}}}}
		},
		"network.secrets": func(s *sandbox.Spec) {
			s.Network.Secrets = &sandbox.Secrets{Secrets: []sandbox.Secret{{EnvVar: "KEY", Value: "sesame", AllowedHosts: []sandbox.HostPattern{{Any: true}}}}}
		},
		"runtime.disable_metrics_sample": func(s *sandbox.Spec) { s.Runtime.DisableMetrics = true },
	} {
		spec := sandbox.Spec{Name: "web", Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: "x"}}}
		change(&spec)
		entry, lost := EntryOf(spec, nil)
		if !slices.Contains(lost, want) {
			t.Errorf("%s: lost are %v", want, lost)
		}
		text, err := (&File{Sandboxes: map[string]Sandbox{"web": entry}}).Text(nil)
		if err != nil || strings.Contains(string(text), "sesame") {
			t.Errorf("%s: %v\n%s", want, err, text)
		}
	}
}
