package image

import (
	"errors"
	"hash/crc32"
	"io"
)

// gzipHeader is how many bytes every member begins with.
const gzipHeader = 10

// header reads what comes before the blocks of a member. At the end of the input, after a member, there is none.
func (z *gunzip) header() error {
	sum := uint32(0)
	next := func() (byte, error) {
		v, err := z.take(8)
		if err == nil {
			sum = crc32.Update(sum, crc32.IEEETable, []byte{byte(v)})
		}
		return byte(v), err
	}
	var h [gzipHeader]byte
	for i := range h {
		b, err := next()
		if err != nil {
			if i == 0 && z.members > 0 && errors.Is(err, io.ErrUnexpectedEOF) {
				z.stage = nil
				return nil
			}
			return err
		}
		h[i] = b
	}
	if h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 {
		return errors.New("not a gzip header")
	}
	if h[3]&4 != 0 { // extra field
		low, err := next()
		if err != nil {
			return err
		}
		high, err := next()
		if err != nil {
			return err
		}
		for range int(high)<<8 | int(low) {
			if _, err := next(); err != nil {
				return err
			}
		}
	}
	for _, flag := range []byte{8, 16} { // file name, comment
		for b, err := byte(1), error(nil); h[3]&flag != 0 && b != 0; {
			if b, err = next(); err != nil {
				return err
			}
		}
	}
	if h[3]&2 != 0 { // CRC of the header
		want := sum & 0xffff
		if got, err := z.take(16); err != nil {
			return err
		} else if got != want {
			return errors.New("the checksum of a gzip header is wrong")
		}
	}
	z.size, z.crc = 0, 0
	z.members++
	z.stage = (*gunzip).block
	return nil
}

// trailer checks a member that is complete.
func (z *gunzip) trailer() error {
	if _, err := z.take(z.have & 7); err != nil {
		return err
	}
	crc, err := z.take(32)
	if err != nil {
		return err
	}
	size, err := z.take(32)
	if err != nil {
		return err
	}
	if crc != z.crc || size != z.size {
		return errors.New("the gzip checksum is wrong")
	}
	z.stage = (*gunzip).header
	return nil
}
