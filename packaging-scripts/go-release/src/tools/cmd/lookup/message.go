package main

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
)

// A message is a question for the address of a name, or the answer to it, in the form of RFC 1035. Names are not compressed, except
// the answer's, which points to the question.
type message struct {
	id      uint16
	answer  bool
	missing bool
	name    string
	address netip.Addr
	// In seconds.
	lifetime uint32
}

var errMalformed = errors.New("malformed message")

const (
	typeA       = 1
	classIN     = 1
	flagAnswer  = 0x8400
	flagMissing = 0x0003
	pointer     = 0xc00c
	headerSize  = 12
)

func (one message) encode() []byte {
	flags, answers := uint16(0), uint16(0)
	if one.answer {
		flags |= flagAnswer
	}
	if one.missing {
		flags |= flagMissing
	} else if one.answer {
		answers = 1
	}
	var out []byte
	for _, field := range []uint16{one.id, flags, 1, answers, 0, 0} {
		out = binary.BigEndian.AppendUint16(out, field)
	}
	for label := range strings.SplitSeq(one.name, ".") {
		out = append(out, byte(len(label)))
		out = append(out, label...)
	}
	out = append(out, 0, 0, typeA, 0, classIN)
	if answers == 1 {
		out = binary.BigEndian.AppendUint16(out, pointer)
		out = append(out, 0, typeA, 0, classIN)
		out = binary.BigEndian.AppendUint32(out, one.lifetime)
		out = append(out, 0, 4)
		address := one.address.As4()
		out = append(out, address[:]...)
	}
	return out
}

func decode(in []byte) (message, error) {
	if len(in) < headerSize {
		return message{}, errMalformed
	}
	field := func(at int) uint16 { return binary.BigEndian.Uint16(in[2*at:]) }
	one := message{id: field(0), answer: field(1)&flagAnswer == flagAnswer, missing: field(1)&flagMissing == flagMissing}
	if field(2) != 1 {
		return message{}, errMalformed
	}
	answers := field(3)
	rest := in[headerSize:]
	var labels []string
	for {
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) || rest[0] > 63 {
			return message{}, errMalformed
		}
		length := int(rest[0])
		label := string(rest[1 : 1+length])
		rest = rest[1+length:]
		if length == 0 {
			break
		}
		labels = append(labels, label)
	}
	one.name = strings.Join(labels, ".")
	if !isName(one.name) || len(rest) < 4 {
		return message{}, errMalformed
	}
	if rest = rest[4:]; answers == 0 {
		return one, nil
	}
	if len(rest) < 16 || binary.BigEndian.Uint16(rest) != pointer {
		return message{}, errMalformed
	}
	one.lifetime = binary.BigEndian.Uint32(rest[6:])
	one.address = netip.AddrFrom4([4]byte(rest[12:16]))
	return one, nil
}

func isName(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
	}
	return len(name) < 254
}
