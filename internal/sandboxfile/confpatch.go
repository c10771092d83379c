package sandboxfile

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// ConfPatch has exactly one of its kinds.
type ConfPatch struct {
	Text     *PatchText `yaml:"text"`
	File     *PatchFile `yaml:"file"`
	CopyFile *PatchCopy `yaml:"copy_file"`
	CopyDir  *PatchCopy `yaml:"copy_dir"`
	Symlink  *PatchLink `yaml:"symlink"`
	Mkdir    *PatchPath `yaml:"mkdir"`
	Remove   *PatchPath `yaml:"remove"`
	Append   *PatchText `yaml:"append"`

	place, dir string
}

// PatchText writes text, or appends it.
type PatchText struct {
	Path    string `yaml:"path"`
	Content string `yaml:"content"`
	Mode    Mode   `yaml:"mode"`
	Replace bool   `yaml:"replace"`
}

// PatchFile writes bytes.
type PatchFile struct {
	Path          string `yaml:"path"`
	ContentBase64 string `yaml:"content_base64"`
	Mode          Mode   `yaml:"mode"`
	Replace       bool   `yaml:"replace"`
}

// PatchCopy copies from this machine.
type PatchCopy struct {
	Src     string `yaml:"src"`
	Dst     string `yaml:"dst"`
	Mode    Mode   `yaml:"mode"`
	Replace bool   `yaml:"replace"`
}

// PatchLink makes a symbolic link.
type PatchLink struct {
	Target  string `yaml:"target"`
	Link    string `yaml:"link"`
	Replace bool   `yaml:"replace"`
}

// PatchPath is about one path.
type PatchPath struct {
	Path string `yaml:"path"`
	Mode Mode   `yaml:"mode"`
}

// Mode is permission bits, written as "0644" in quotes; nil is the default.
type Mode struct{ Bits *uint32 }

var modeForm = regexp.MustCompile(`^0?[0-7]{3,4}$`)

func (v *Mode) decodeNode(d *decoder, n *yaml.Node, at string) error {
	text, err := d.word(n, at, `a mode such as "0644"`)
	if err != nil {
		return err
	}
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0 || !modeForm.MatchString(text) {
		return d.fail(n, `%s: want a mode such as "0644", in quotes, not %s`, at, clip(text))
	}
	bits, _ := strconv.ParseUint(text, 8, 32) // the form was checked
	mode := uint32(bits)
	v.Bits = &mode
	return nil
}

func (*Mode) schema() map[string]any {
	return map[string]any{"type": "string", "pattern": modeForm.String()}
}

func (p *ConfPatch) decodeNode(d *decoder, n *yaml.Node, at string) error {
	*p = ConfPatch{place: fmt.Sprintf("%s:%d:%d", d.path, n.Line, n.Column), dir: d.dir()}
	type plain ConfPatch
	if err := d.object(n, reflect.ValueOf((*plain)(p)).Elem(), at); err != nil {
		return err
	}
	if len(n.Content) != 2 {
		return d.fail(n, "%s: want exactly one kind of patch", at)
	}
	return nil
}

func (p ConfPatch) patch() (sandbox.Patch, error) {
	from := func(src string) string {
		if filepath.IsAbs(src) {
			return src
		}
		return filepath.Join(p.dir, src)
	}
	switch {
	case p.Text != nil:
		return sandbox.Patch{Type: sandbox.PatchText, Path: p.Text.Path, Content: []byte(p.Text.Content), Mode: p.Text.Mode.Bits, Replace: p.Text.Replace}, nil
	case p.Append != nil:
		return sandbox.Patch{Type: sandbox.PatchAppend, Path: p.Append.Path, Content: []byte(p.Append.Content), Mode: p.Append.Mode.Bits}, nil
	case p.File != nil:
		data, err := base64.StdEncoding.DecodeString(p.File.ContentBase64)
		if err != nil {
			return sandbox.Patch{}, fmt.Errorf("content_base64 is not base64")
		}
		return sandbox.Patch{Type: sandbox.PatchFile, Path: p.File.Path, Content: data, Mode: p.File.Mode.Bits, Replace: p.File.Replace}, nil
	case p.CopyFile != nil:
		return sandbox.Patch{Type: sandbox.PatchCopyFile, Src: from(p.CopyFile.Src), Dst: p.CopyFile.Dst, Mode: p.CopyFile.Mode.Bits, Replace: p.CopyFile.Replace}, nil
	case p.CopyDir != nil:
		return sandbox.Patch{Type: sandbox.PatchCopyDir, Src: from(p.CopyDir.Src), Dst: p.CopyDir.Dst, Replace: p.CopyDir.Replace}, nil
	case p.Symlink != nil:
		return sandbox.Patch{Type: sandbox.PatchSymlink, Target: p.Symlink.Target, Link: p.Symlink.Link, Replace: p.Symlink.Replace}, nil
	case p.Mkdir != nil:
		return sandbox.Patch{Type: sandbox.PatchMkdir, Path: p.Mkdir.Path, Mode: p.Mkdir.Mode.Bits}, nil
	case p.Remove != nil:
		return sandbox.Patch{Type: sandbox.PatchRemove, Path: p.Remove.Path}, nil
	}
	return sandbox.Patch{}, fmt.Errorf("it says nothing")
}
