package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// settings are what the user has set, and where that says that sandboxes live.
type settings struct {
	config.Settings
	selection config.Selection
}

// settings reads config.json, once, and warns of what is in it and changes nothing.
func (a *app) settings() (settings, error) {
	if a.set == nil {
		s, err := config.Read()
		for _, w := range append(s.File.Warnings, s.File.Defaults.Unmet()...) {
			a.warn(w)
		}
		a.set, a.setErr = &settings{Settings: s}, err
		if err == nil {
			a.set.selection, a.setErr = s.File.Select()
		}
	}
	return *a.set, a.setErr
}

// local refuses a backend that is elsewhere, for what only this machine can do: nothing that was meant for a cloud is done here.
func (s settings) local() error {
	if s.selection.Kind != config.Cloud {
		return nil
	}
	hint := "to use this machine: MSB_BACKEND=local"
	if s.selection.Profile != "" {
		hint = fmt.Sprintf("the profile %q is selected by %s; %s", s.selection.Profile, s.selection.Source, hint)
	}
	return &sandbox.Error{Kind: sandbox.Unsupported, Message: "this command requires a local backend, but the active default is a cloud backend", Hint: hint}
}

func (a *app) contextCommand() *cobra.Command {
	var format string
	c := a.command(&cobra.Command{Use: "context", Aliases: []string{"ctx"}, Short: "Show where sandboxes live, and what said so",
		Long: `MSB_BACKEND, local or cloud, comes first; cloud takes MSB_API_KEY and MSB_API_URL, or a profile of config.json. Then comes the
profile that MSB_PROFILE or active_profile names, then this machine.`,
		Example: "msb context\nMSB_PROFILE=work msb context --format json"})
	flagsOf(c, false).format(&format)
	c.RunE = func(*cobra.Command, []string) error {
		s, err := a.settings()
		if err != nil {
			return err
		}
		if format == "json" {
			enc := json.NewEncoder(a.out) // the keys keep their order (contract msb-0.6 §1.1)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			return enc.Encode(s.selection)
		}
		st := styleOf(a.out)
		var b strings.Builder
		for _, l := range [][2]string{{"Backend", s.selection.Kind}, {"API URL", s.selection.URL}, {"Source", s.selection.Source}, {"Profile", s.selection.Profile}} {
			if l[1] != "" {
				fmt.Fprintf(&b, "%s %s\n", st.bold(fmt.Sprintf("%-9s", l[0]+":")), oneLine(l[1]))
			}
		}
		_, err = a.out.WriteString(b.String())
		return err
	}
	return c
}

// spec is what flags and config.json ask for. It says what the sandbox will not have because of its deployment profile.
func (a *app) spec(flags *sandboxFlags, name sandbox.Name, image string) (sandbox.Spec, error) {
	set, err := a.settings()
	if err != nil {
		return sandbox.Spec{}, err
	}
	spec, err := flags.spec(set.File, name, image)
	if taken := spec.Taken(); err == nil && len(taken) > 0 {
		a.warn("the deployment profile multi-tenant takes away: " + strings.Join(taken, ", "))
	}
	return spec, err
}
