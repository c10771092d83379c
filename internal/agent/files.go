package agent

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// Bounds of the files that come with the bootstrap.
const (
	maxFiles      = 64 << 20 // bytes of the tar
	maxFileCount  = 1 << 16
	scriptsOnTmpf = ".msb/scripts"
)

// fileStream reads the tar out of x.msb.files frames, as they come.
type fileStream struct {
	agent *Agent
	frame *agentproto.Frame
	data  []byte
	total int
	ended bool
}

func (s *fileStream) Read(p []byte) (int, error) {
	for len(s.data) == 0 {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	return n, nil
}

func (s *fileStream) next() error {
	if s.frame != nil {
		s.frame.Release()
		s.frame = nil
	}
	if s.ended {
		return io.EOF
	}
	f, err := s.agent.next()
	if err != nil {
		return err
	}
	s.frame = f
	m, err := agentproto.Open(f.Body())
	if err != nil {
		return err
	}
	if m.Type != agentproto.TypeFiles {
		return fmt.Errorf("have %q, want %q", m.Type, agentproto.TypeFiles)
	}
	if s.data, err = agentproto.DecodeData(m.Payload); err != nil {
		return err
	}
	if s.total += len(s.data); s.total > maxFiles || len(s.data) > agentproto.MaxFilesChunk {
		return fmt.Errorf("more than %d bytes", maxFiles)
	}
	s.ended = len(s.data) == 0
	if s.ended {
		return io.EOF
	}
	return nil
}

// receiveFiles extracts the tar that follows the bootstrap below the guest's root, and reads its stream to the end.
func (a *Agent) receiveFiles(scripts bool) error {
	if scripts {
		mode := uint32(0o755)
		if err := a.mountTmpfs(&agentproto.TmpfsMount{Path: "/" + scriptsOnTmpf, SizeMiB: maxFiles >> 20, Mode: &mode}); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(a.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	stream := &fileStream{agent: a}
	archive := tar.NewReader(stream)
	for n := 0; ; n++ {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if n == maxFileCount {
			return fmt.Errorf("more than %d files", maxFileCount)
		}
		if err := extract(root, h, archive); err != nil {
			return err
		}
	}
	if scripts {
		if err := scriptsInProfile(root); err != nil {
			return err
		}
	}
	for !stream.ended { // what comes after the archive's own end is padding
		if err := stream.next(); err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// extract makes one entry, in the place of whatever has its name. Links that lead out of the root are not followed.
func extract(root *os.Root, h *tar.Header, content io.Reader) error {
	name := strings.Trim(filepath.Clean("/"+h.Name), "/")
	if name == "" {
		return nil
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(h.Mode & 0o777)
	if h.Typeflag != tar.TypeDir {
		if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, mode); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	case tar.TypeSymlink:
		return errors.Join(root.Symlink(h.Linkname, name), owner(root, h, name))
	case tar.TypeLink:
		return root.Link(strings.Trim(filepath.Clean("/"+h.Linkname), "/"), name)
	default:
		return fmt.Errorf("%s: a file of type %q cannot be made", h.Name, h.Typeflag)
	}
	if err := owner(root, h, name); err != nil {
		return err
	}
	if err := root.Chmod(name, tarMode(h)); err != nil { // the umask is not the archive's, and chown clears set-id bits
		return err
	}
	if h.ModTime.Unix() != 0 {
		return root.Chtimes(name, h.ModTime, h.ModTime)
	}
	return nil
}

// profileBlock puts the scripts on PATH in login shells, which set their own.
const profileBlock = "\n# >>> microsandbox scripts >>>\n" +
	`case ":$PATH:" in *:/.msb/scripts:*) ;; *) PATH="/.msb/scripts:$PATH"; export PATH ;; esac` +
	"\n# <<< microsandbox scripts <<<\n"

// scriptsInProfile appends profileBlock to /etc/profile, once.
func scriptsInProfile(root *os.Root) error {
	if err := root.MkdirAll("etc", 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile("etc/profile", os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	have, err := io.ReadAll(io.LimitReader(f, maxEtcFile))
	if err != nil || strings.Contains(string(have), profileBlock) {
		return err
	}
	_, err = io.WriteString(f, profileBlock)
	return err
}

func tarMode(h *tar.Header) os.FileMode {
	return h.FileInfo().Mode() & (os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky)
}

// owner gives an entry its owner, as far as the agent may.
func owner(root *os.Root, h *tar.Header, name string) error {
	self := ownIdentity()
	if self.uid != 0 || uint32(h.Uid) == self.uid && uint32(h.Gid) == self.gid {
		return nil
	}
	return root.Lchown(name, h.Uid, h.Gid)
}

// below returns where a guest path is for this process, which outside of a guest is not at the same place.
func (a *Agent) below(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("path %q is not absolute", path)
	}
	return filepath.Join(a.Root, filepath.Clean(path)), nil
}
