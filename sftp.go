package microsandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pkg/sftp"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// SFTP opens an SFTP session.
func (c *SSHClient) SFTP(ctx context.Context) (*SFTPClient, error) {
	if err := ctx.Err(); err != nil {
		return nil, wrap(err)
	}
	client, err := sftp.NewClient(c.client)
	if err != nil {
		return nil, sshError(err)
	}
	return &SFTPClient{client}, nil
}

// SFTPClient is an SFTP session. Its paths are the guest's; relative ones are of the sandbox's working directory.
type SFTPClient struct{ c *sftp.Client }

// Client is the session for package github.com/pkg/sftp.
func (f *SFTPClient) Client() *sftp.Client { return f.c }

func sftpError(ctx context.Context, err error) error {
	if err == nil {
		return wrap(ctx.Err())
	}
	kind := sandbox.Filesystem
	if errors.Is(err, os.ErrNotExist) {
		kind = sandbox.PathNotFound
	}
	return wrap(&sandbox.Error{Op: "sftp", Kind: kind, Err: err})
}

// Read returns a file, of at most 1 GiB.
func (f *SFTPClient) Read(ctx context.Context, path string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, wrap(err)
	}
	file, err := f.c.Open(path)
	if err != nil {
		return nil, sftpError(ctx, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxRead+1))
	if err == nil && len(data) > maxRead {
		return nil, fail(ErrBufferTooSmall, fmt.Sprintf("%s is larger than %d MiB", path, maxRead>>20))
	}
	if err != nil {
		return nil, sftpError(ctx, err)
	}
	return data, nil
}

// Write makes a file hold data.
func (f *SFTPClient) Write(ctx context.Context, path string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return wrap(err)
	}
	file, err := f.c.Create(path)
	if err != nil {
		return sftpError(ctx, err)
	}
	_, err = file.Write(data)
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	return sftpError(ctx, err)
}

// do does one thing, unless ctx has ended.
func (f *SFTPClient) do(ctx context.Context, what func() error) error {
	if err := ctx.Err(); err != nil {
		return wrap(err)
	}
	return sftpError(ctx, what())
}

// Mkdir makes a directory.
func (f *SFTPClient) Mkdir(ctx context.Context, path string) error {
	return f.do(ctx, func() error { return f.c.Mkdir(path) })
}

// RemoveFile removes what is not a directory.
func (f *SFTPClient) RemoveFile(ctx context.Context, path string) error {
	return f.do(ctx, func() error { return f.c.Remove(path) })
}

// RemoveDir removes an empty directory.
func (f *SFTPClient) RemoveDir(ctx context.Context, path string) error {
	return f.do(ctx, func() error { return f.c.RemoveDirectory(path) })
}

// Rename moves a file or a directory.
func (f *SFTPClient) Rename(ctx context.Context, oldPath string, newPath string) error {
	return f.do(ctx, func() error { return f.c.PosixRename(oldPath, newPath) })
}

// RealPath resolves every link on the way.
func (f *SFTPClient) RealPath(ctx context.Context, path string) (real string, err error) {
	err = f.do(ctx, func() (err error) { real, err = f.c.RealPath(path); return err })
	return real, err
}

// ReadLink returns what a symbolic link says.
func (f *SFTPClient) ReadLink(ctx context.Context, path string) (target string, err error) {
	err = f.do(ctx, func() (err error) { target, err = f.c.ReadLink(path); return err })
	return target, err
}

// Symlink makes a symbolic link that says target.
func (f *SFTPClient) Symlink(ctx context.Context, target string, linkPath string) error {
	return f.do(ctx, func() error { return f.c.Symlink(target, linkPath) })
}

// Close ends the session.
func (f *SFTPClient) Close(ctx context.Context) error {
	err := f.c.Close()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return sshError(err)
}
