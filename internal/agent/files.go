package agent

import (
	"archive/tar"
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
	maxFileCount = 1 << 20
	scriptsMiB   = 64 // of the tmpfs for scripts
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
	if s.total += len(s.data); s.total > agentproto.MaxFiles || len(s.data) > agentproto.MaxFilesChunk {
		return fmt.Errorf("more than %d bytes", agentproto.MaxFiles)
	}
	s.ended = len(s.data) == 0
	if s.ended {
		return io.EOF
	}
	return nil
}

// receiveFiles extracts the tar that follows the bootstrap below the guest's root, and reads its stream to the end.
func (a *Agent) receiveFiles(scripts, keepProfile bool) error {
	if scripts {
		mode := uint32(0o755)
		if err := a.mountTmpfs(&agentproto.TmpfsMount{Path: scriptsDir, SizeMiB: scriptsMiB, Mode: &mode}); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(a.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	defer syscall.Umask(syscall.Umask(0))
	into := &tree{root: root}
	defer into.close()
	image := &devices{root: root}
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
		if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
			err = image.add(h)
		} else if err = image.settle(); err == nil {
			if agentproto.FilesOp(h.PAXRecords[agentproto.FilesOpRecord]) == agentproto.FilesTrust {
				err = a.trust(root, h.Name, archive)
			} else {
				err = into.extract(h, archive)
			}
		}
		if err != nil {
			return err
		}
	}
	if err := image.settle(); err != nil {
		return err
	}
	if scripts && !keepProfile {
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

// profileBlock puts the scripts on PATH in login shells, which set their own.
const profileBlock = "\n# >>> microsandbox scripts >>>\n" +
	`case ":$PATH:" in *:/.msb/scripts:*) ;; *) PATH="/.msb/scripts:$PATH"; export PATH ;; esac` +
	"\n# <<< microsandbox scripts <<<\n"

// scriptsInProfile appends profileBlock to /etc/profile, once.
func scriptsInProfile(root *os.Root) error {
	name, err := resolve(root, "/etc/profile")
	if err != nil {
		return err
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o644)
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

// below returns where a guest path is for this process, which outside of a guest is not at the same place.
func (a *Agent) below(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("path %q is not absolute", path)
	}
	return filepath.Join(a.Root, filepath.Clean(path)), nil
}
