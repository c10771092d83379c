package sandbox

import (
	"reflect"
	"slices"
	"testing"
)

// What multi-tenant takes is taken from every spec with defaults, and said.
func TestMultiTenant(t *testing.T) {
	many, dns := 1000, &DNS{NoRebindProtection: true, Nameservers: []string{"127.0.0.1"}, QueryTimeoutMS: 7}
	asked := Spec{Name: "s", DeploymentProfile: MultiTenant, Network: Network{DNS: dns, TrustHostCAs: true, MaxConnections: &many, Ports: []Port{{HostPort: 80, GuestPort: 80}}}}
	want := []string{"published ports", "names that lead to private addresses", "nameservers of its own", "the host's certificate authorities", "more than 256 connections"}
	if got := asked.Taken(); !slices.Equal(got, want) {
		t.Errorf("taken is %q, want %q", got, want)
	}
	got := asked.WithDefaults()
	if n := got.Network; len(n.Ports) > 0 || n.DNS.NoRebindProtection || len(n.DNS.Nameservers) > 0 || n.DNS.QueryTimeoutMS != 7 || n.TrustHostCAs || *n.MaxConnections != 256 {
		t.Errorf("the network is %+v %+v", n, n.DNS)
	}
	if left := got.Taken(); len(left) > 0 {
		t.Errorf("left is %q", left)
	}
	if !dns.NoRebindProtection || many != 1000 {
		t.Error("what was asked for was changed")
	}
	if again := got.WithDefaults(); !reflect.DeepEqual(again, got) {
		t.Errorf("a second time gives %+v", again)
	}
	few := 10
	asked = Spec{Name: "s", DeploymentProfile: MultiTenant, Network: Network{MaxConnections: &few}}
	if got := asked.WithDefaults(); *got.Network.MaxConnections != 10 || asked.Taken() != nil {
		t.Errorf("less than the most is taken: %q", asked.Taken())
	}
	asked = Spec{Name: "s", Network: Network{DNS: dns, MaxConnections: &many}}
	if got := asked.WithDefaults(); !got.Network.DNS.NoRebindProtection || *got.Network.MaxConnections != 1000 || asked.Taken() != nil {
		t.Errorf("single-tenant takes %q", asked.Taken())
	}
}

// restricted makes every mount nosuid and nodev.
func TestRestricted(t *testing.T) {
	asked := Spec{Name: "s", SecurityProfile: ProfileRestricted, Mounts: []Mount{{Type: MountBind, Host: "/x", Guest: "/x"}, {Type: MountNamed, Host: "v", Guest: "/v"}}}
	for _, m := range asked.WithDefaults().Mounts { // and the automatic /tmp
		if !m.Options.NoSUID || !m.Options.NoDev {
			t.Errorf("%s has %+v", m.Guest, m.Options)
		}
	}
	if asked.Mounts[0].Options.NoSUID {
		t.Error("what was asked for was changed")
	}
	asked.SecurityProfile = ""
	if m := asked.WithDefaults().Mounts[0]; m.Options.NoSUID {
		t.Errorf("default makes %+v", m)
	}
}
