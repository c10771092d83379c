package agentclient

import (
	"context"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// HasSmall reports whether the agent knows PutFile and GetFile.
func (c *Client) HasSmall() bool {
	return c.ready.Has(agentproto.TypeFSPut) && c.ready.Has(agentproto.TypeFSGet)
}

// PutFile makes a file of at most agentproto.MaxSmall bytes in one question. See agentproto.FSPut. Kinds: Filesystem, PathNotFound.
func (c *Client) PutFile(ctx context.Context, put *agentproto.FSPut) error {
	m, err := c.Request(ctx, agentproto.TypeFSPut, put)
	if err != nil {
		return err
	}
	_, err = fsResponse(m)
	return err
}

// GetFile reads a regular file in one question; one of more than agentproto.MaxSmall bytes it opens instead. A file that is not nil is
// to be closed. Kinds: Filesystem, PathNotFound.
func (c *Client) GetFile(ctx context.Context, path string) (agentproto.FileInfo, []byte, *File, error) {
	var got agentproto.FSGot
	m, err := c.Request(ctx, agentproto.TypeFSGet, &agentproto.FSGet{Path: path})
	switch {
	case err != nil:
	case m.Type == agentproto.TypeFSResponse:
		if _, err = fsResponse(m); err == nil {
			err = &sandbox.Error{Kind: sandbox.Protocol, Message: "the answer has no file"}
		}
	default:
		defer m.Release()
		err = m.expect(agentproto.TypeFSGot, &got)
	}
	switch {
	case err != nil:
		return agentproto.FileInfo{}, nil, nil, err
	case got.Handle != nil:
		return got.Stat, nil, &File{c, *got.Handle}, nil
	}
	return got.Stat, got.Data, nil, nil
}
