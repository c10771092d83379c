package agentproto

// codec carries a payload's fields in one of the two directions.
type codec struct {
	out   []byte // what was encoded so far; unused when decoding
	count int    // keys encoded so far
	in    []pair // the pairs to decode from; unused when encoding
	dec   bool
	depth int
	err   error // the first thing wrong with the input
}

type pair struct{ key, value []byte }

// rule says what happens to a field without a value.
type rule uint8

const (
	must rule = iota // always on the wire, and an error where it is missing
	dflt             // always on the wire; where it is missing or null, the struct keeps its value
	null             // the zero value is null on the wire
	skip             // the zero value is left out
)

func encodeMap(b []byte, p Payload) []byte {
	c := codec{out: append(b, majorMap)}
	p.fields(&c)
	c.out[len(b)] |= byte(c.count) // no message has more than 23 keys; TestKeyCounts says so
	return c.out
}

func decodeMap(r *reader, p Payload, depth int) error {
	if depth > maxDepth {
		return malformed("nested deeper than %d", maxDepth)
	}
	c := codec{dec: true, depth: depth, in: make([]pair, 0, 12)}
	err := r.elements(majorMap, maxPairs, func() error {
		key, err := r.text()
		if err != nil {
			return err
		}
		value, err := r.skip(depth + 1)
		c.in = append(c.in, pair{key, value})
		return err
	})
	if err != nil {
		return err
	}
	p.fields(&c)
	return c.err
}

// key begins a field. When encoding it writes the key and returns true if the value is to follow; when decoding it
// returns the reader of the value, or nil.
func (c *codec) key(key string, how rule, zero bool) (r *reader, write bool) {
	if !c.dec {
		if how == skip && zero {
			return nil, false
		}
		c.out = appendText(c.out, key)
		c.count++
		if how == null && zero {
			c.out = append(c.out, cborNull)
			return nil, false
		}
		return nil, true
	}
	found := false
	for _, p := range c.in {
		if string(p.key) != key {
			continue
		}
		if found {
			c.fail(malformed("key %q twice", key))
			return nil, false
		}
		found = true
		if v := (&reader{p.value}); !v.null() {
			r = v
		}
	}
	if r == nil && how == must {
		c.fail(malformed("%s is missing", key))
	}
	return r, false
}

func (c *codec) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// field says where in the payload an error was.
func (c *codec) field(key string, err error) {
	if err != nil {
		c.fail(malformed("%s: %v", key, err))
	}
}

func (c *codec) text(key string, p *string, how rule) {
	r, w := c.key(key, how, *p == "")
	if w {
		c.out = appendText(c.out, *p)
	}
	if r != nil {
		s, err := r.text()
		c.field(key, err)
		*p = string(s)
	}
}

func (c *codec) bytes(key string, p *[]byte, how rule) {
	r, w := c.key(key, how, len(*p) == 0)
	if w {
		c.out = append(appendHead(c.out, majorBytes, uint64(len(*p))), *p...)
	}
	if r != nil {
		b, err := r.str(majorBytes)
		c.field(key, err)
		*p = append([]byte(nil), b...)
	}
}

// optText is a text that may be absent, which is not the same as "".
func (c *codec) optText(key string, p **string, how rule) {
	r, w := c.key(key, how, *p == nil)
	if w {
		c.out = appendText(c.out, **p)
	}
	if r != nil {
		b, err := r.text()
		c.field(key, err)
		s := string(b)
		*p = &s
	}
}

func (c *codec) boolean(key string, p *bool, how rule) {
	r, w := c.key(key, how, !*p)
	if w && *p {
		c.out = append(c.out, cborTrue)
	} else if w {
		c.out = append(c.out, cborFalse)
	}
	if r != nil {
		b, err := r.boolean()
		c.field(key, err)
		*p = b
	}
}

func (c *codec) texts(key string, p *[]string, how rule) {
	r, w := c.key(key, how, len(*p) == 0)
	if w {
		c.out = appendHead(c.out, majorArray, uint64(len(*p)))
		for _, s := range *p {
			c.out = appendText(c.out, s)
		}
	}
	if r != nil {
		var all []string
		c.field(key, r.elements(majorArray, maxElements, func() error {
			s, err := r.text()
			all = append(all, string(s))
			return err
		}))
		*p = all
	}
}

type number interface {
	~uint8 | ~uint16 | ~uint32 | ~uint64 | ~int32 | ~int64
}

func readNumber[T number](r *reader) (T, error) {
	n, neg, err := r.integer()
	if err != nil {
		return 0, err
	}
	if neg {
		if v := T(-1 - int64(n)); n < 1<<63 && v < 0 && int64(v) == -1-int64(n) {
			return v, nil
		}
	} else if v := T(n); v >= 0 && uint64(v) == n {
		return v, nil
	}
	return 0, malformed("number out of range")
}

func appendNumber[T number](b []byte, v T) []byte {
	if v < 0 {
		return appendInt(b, int64(v))
	}
	return appendHead(b, majorUint, uint64(v))
}

func num[T number](c *codec, key string, p *T, how rule) {
	r, w := c.key(key, how, *p == 0)
	if w {
		c.out = appendNumber(c.out, *p)
	}
	if r != nil {
		v, err := readNumber[T](r)
		c.field(key, err)
		*p = v
	}
}

// optNum is a number that may be absent, which is not the same as 0.
func optNum[T number](c *codec, key string, p **T, how rule) {
	r, w := c.key(key, how, *p == nil)
	if w {
		c.out = appendNumber(c.out, **p)
	}
	if r != nil {
		v, err := readNumber[T](r)
		c.field(key, err)
		*p = &v
	}
}

// octets is an array of at most 16 numbers, as addresses are written.
func (c *codec) octets(key string, p *[]byte, how rule) {
	r, w := c.key(key, how, len(*p) == 0)
	if w {
		c.out = appendHead(c.out, majorArray, uint64(len(*p)))
		for _, o := range *p {
			c.out = appendHead(c.out, majorUint, uint64(o))
		}
	}
	if r != nil {
		var all []byte
		c.field(key, r.elements(majorArray, 16, func() error {
			o, err := readNumber[uint8](r)
			all = append(all, o)
			return err
		}))
		*p = all
	}
}

type payloadOf[T any] interface {
	*T
	Payload
}

func (c *codec) object(key string, p Payload, how rule) {
	r, w := c.key(key, how, false)
	if w {
		c.out = encodeMap(c.out, p)
	}
	if r != nil {
		c.field(key, decodeMap(r, p, c.depth+1))
	}
}

func optObject[T any, P payloadOf[T]](c *codec, key string, p **T, how rule) {
	r, w := c.key(key, how, *p == nil)
	if w {
		c.out = encodeMap(c.out, P(*p))
	}
	if r != nil {
		v := new(T)
		c.field(key, decodeMap(r, P(v), c.depth+1))
		*p = v
	}
}

func objects[T any, P payloadOf[T]](c *codec, key string, p *[]T, how rule) {
	r, w := c.key(key, how, *p == nil)
	if w {
		c.out = appendHead(c.out, majorArray, uint64(len(*p)))
		for i := range *p {
			c.out = encodeMap(c.out, P(&(*p)[i]))
		}
	}
	if r != nil {
		all := []T{}
		c.field(key, r.elements(majorArray, maxElements, func() error {
			var v T
			err := decodeMap(r, P(&v), c.depth+1)
			all = append(all, v)
			return err
		}))
		*p = all
	}
}
