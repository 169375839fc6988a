package logring

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math/bits"
	"strconv"
	"time"
	"unicode/utf8"
)

// envelope is the room in bytes for everything of a record but its data, and for
// the slack of the escaped form.
const envelope = 256

// escapeSlack is how many bytes the escaped form of a beginning of data may have
// beyond twice its length before the encoder gives up.
const escapeSlack = 64

// maxEncoded is the greatest length in bytes of an encoded record. The encoder
// takes base64 where escaping would more than double the data.
const maxEncoded = 2*MaxData + envelope

var errMalformed = errors.New("malformed record")

// mustEscape tells for each byte whether it cannot stand in a JSON string as it
// is. Bytes above 0x7f can stand: the encoder has validated the UTF-8 before.
var mustEscape = func() (t [256]bool) {
	for c := range 0x20 {
		t[c] = true
	}
	t['"'], t['\\'] = true, true
	return t
}()

const hexDigits = "0123456789abcdef"

// AppendRecord appends the encoded form of r, which ends with a newline and
// contains no other, to dst. r.Data must not exceed MaxData.
func AppendRecord(dst []byte, r Record) []byte {
	dst = append(dst, `{"q":`...)
	dst = strconv.AppendUint(dst, r.Seq, 10)
	dst = append(dst, `,"t":`...)
	dst = strconv.AppendInt(dst, r.Time.UnixNano(), 10)
	if r.Stream == Stderr {
		dst = append(dst, `,"s":"e"`...)
	} else {
		dst = append(dst, `,"s":"o"`...)
	}
	if r.Partial {
		dst = append(dst, `,"p":true`...)
	}
	if utf8.Valid(r.Data) {
		n := len(dst)
		dst = append(dst, `,"d":"`...)
		var ok bool
		if dst, ok = appendEscaped(dst, r.Data); ok {
			return append(dst, "\"}\n"...)
		}
		dst = dst[:n]
	}
	dst = append(dst, `,"b":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, r.Data)
	return append(dst, "\"}\n"...)
}

// appendEscaped appends data as the inside of a JSON string. It gives up as soon
// as that takes more than twice the bytes so far: such data is no text.
func appendEscaped(dst, data []byte) ([]byte, bool) {
	limit := len(dst) + escapeSlack
	for {
		n := plainPrefix(data)
		dst = append(dst, data[:n]...)
		if n == len(data) {
			return dst, true
		}
		limit += 2 * (n + 1)
		switch c := data[n]; c {
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		case '"', '\\':
			dst = append(dst, '\\', c)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			if len(dst) > limit {
				return dst, false
			}
		}
		data = data[n+1:]
	}
}

// plainPrefix returns how many bytes at the start of data need no escape. It
// looks at eight bytes at a time: a byte of the mask is set where the byte of
// the word is below 0x20, a quote or a backslash. Borrows can set bits above the
// first hit only, which is the one that counts.
func plainPrefix(data []byte) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	i := 0
	for ; i+8 <= len(data); i += 8 {
		w := binary.LittleEndian.Uint64(data[i:])
		q := w ^ ones*'"'
		b := w ^ ones*'\\'
		mask := ((w - ones*0x20) & ^w) | ((q - ones) & ^q) | ((b - ones) & ^b)
		if mask &= highs; mask != 0 {
			return i + bits.TrailingZeros64(mask)/8
		}
	}
	for ; i < len(data); i++ {
		if mustEscape[data[i]] {
			return i
		}
	}
	return i
}

// ParseRecord decodes one encoded record, with or without its newline. It
// accepts what AppendRecord writes and nothing else. It decodes in place: line
// is overwritten, and Data of the result points into it.
func ParseRecord(line []byte) (Record, error) {
	p := parser{rest: bytes.TrimSuffix(line, []byte{'\n'})}
	var r Record
	p.literal(`{"q":`)
	r.Seq = p.uint()
	p.literal(`,"t":`)
	nanos := p.int()
	p.literal(`,"s":"`)
	switch {
	case p.accept(`o"`):
		r.Stream = Stdout
	case p.accept(`e"`):
		r.Stream = Stderr
	default:
		p.bad = true
	}
	r.Partial = p.accept(`,"p":true`)
	isText := p.accept(`,"d":"`)
	if !isText {
		p.literal(`,"b":"`)
	}
	if p.bad || len(p.rest) < 2 || p.rest[len(p.rest)-1] != '}' || p.rest[len(p.rest)-2] != '"' {
		return Record{}, errMalformed
	}
	body := p.rest[:len(p.rest)-2]
	var ok bool
	if isText {
		r.Data, ok = unescape(body)
	} else {
		r.Data, ok = decodeBase64(body)
	}
	if !ok || len(r.Data) > MaxData {
		return Record{}, errMalformed
	}
	r.Time = time.Unix(0, nanos)
	return r, nil
}

func decodeBase64(body []byte) ([]byte, bool) {
	// The decoder of the standard library skips newlines inside its input,
	// our encoder writes none, and a record cannot contain one.
	if bytes.IndexByte(body, '\r') >= 0 {
		return nil, false
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(body)))
	n, err := base64.StdEncoding.Strict().Decode(out, body)
	return out[:n], err == nil
}

// unescape decodes the inside of a JSON string in place.
func unescape(b []byte) ([]byte, bool) {
	n := plainPrefix(b)
	if n == len(b) {
		return b, true
	}
	out, in := n, n
	for in < len(b) {
		if b[in] != '\\' || in+1 >= len(b) {
			return nil, false
		}
		c := b[in+1]
		in += 2
		switch c {
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case '"', '\\':
		case 'u':
			hi, lo := 0, 0
			if in+4 > len(b) || b[in] != '0' || b[in+1] != '0' {
				return nil, false
			}
			hi, lo = unhex(b[in+2]), unhex(b[in+3])
			if hi < 0 || hi > 1 || lo < 0 {
				return nil, false
			}
			c = byte(hi<<4 | lo)
			in += 4
		default:
			return nil, false
		}
		b[out] = c
		out++
		n = plainPrefix(b[in:])
		copy(b[out:], b[in:in+n])
		out += n
		in += n
	}
	return b[:out], true
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// parser walks over the fixed parts of a record; the first mismatch sets bad.
type parser struct {
	rest []byte
	bad  bool
}

func (p *parser) accept(s string) bool {
	if len(p.rest) < len(s) || string(p.rest[:len(s)]) != s {
		return false
	}
	p.rest = p.rest[len(s):]
	return true
}

func (p *parser) literal(s string) {
	if !p.accept(s) {
		p.bad = true
	}
}

// uint reads a decimal number without leading zeros.
func (p *parser) uint() uint64 {
	var v uint64
	i := 0
	for ; i < len(p.rest) && '0' <= p.rest[i] && p.rest[i] <= '9'; i++ {
		d := uint64(p.rest[i] - '0')
		if v > (1<<64-1-d)/10 {
			p.bad = true
			return 0
		}
		v = v*10 + d
	}
	if i == 0 || (i > 1 && p.rest[0] == '0') {
		p.bad = true
	}
	p.rest = p.rest[i:]
	return v
}

func (p *parser) int() int64 {
	negative := p.accept("-")
	v := p.uint()
	switch {
	case negative && (v == 0 || v > 1<<63):
		p.bad = true
	case negative:
		return -int64(v)
	case v > 1<<63-1:
		p.bad = true
	}
	return int64(v)
}
