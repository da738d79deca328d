// Package squash is the Go side of the C library in the package squash.
package squash

// The packaging scripts copy the header here: Go's build cache considers only the contents of this directory.

// #cgo LDFLAGS: -L/var/vcap/packages/squash/lib -lsquash
// #include "squash.h"
import "C"

import (
	"encoding/binary"
	"errors"
	"unsafe"
)

// ErrDamaged says that bytes are not a complete frame.
var ErrDamaged = errors.New("damaged frame")

// most is the largest frame, unpacked, in bytes.
const most = 64 << 20

// Version is the version of the library that is linked.
func Version() string {
	return C.GoString(C.squash_version())
}

// Hash is FNV-1a of a string.
func Hash(text string) uint64 {
	return uint64(C.squash_fnv1a(unsafe.Pointer(unsafe.StringData(text)), C.size_t(len(text))))
}

// Checksum is CRC-32C.
func Checksum(bytes []byte) uint32 {
	return uint32(C.squash_crc32c(0, unsafe.Pointer(unsafe.SliceData(bytes)), C.size_t(len(bytes))))
}

// Frame packs bytes, with their length and their checksum in front.
func Frame(bytes []byte) []byte {
	frame := make([]byte, 8+C.squash_bound(C.size_t(len(bytes))))
	binary.LittleEndian.PutUint32(frame, uint32(len(bytes)))
	binary.LittleEndian.PutUint32(frame[4:], Checksum(bytes))
	size := C.squash_pack(unsafe.Pointer(unsafe.SliceData(bytes)), C.size_t(len(bytes)), unsafe.Pointer(&frame[8]))
	return frame[:8+size]
}

// Unframe reverses Frame.
func Unframe(frame []byte) ([]byte, error) {
	if len(frame) < 8 {
		return nil, ErrDamaged
	}
	length := binary.LittleEndian.Uint32(frame)
	if length > most {
		return nil, ErrDamaged
	}
	// One byte more than needed: there is no address of an empty slice's first byte.
	bytes := make([]byte, length+1)
	packed := frame[8:]
	size := C.squash_unpack(unsafe.Pointer(unsafe.SliceData(packed)), C.size_t(len(packed)), unsafe.Pointer(&bytes[0]), C.size_t(length))
	bytes = bytes[:length]
	if size != C.ptrdiff_t(length) || Checksum(bytes) != binary.LittleEndian.Uint32(frame[4:]) {
		return nil, ErrDamaged
	}
	return bytes, nil
}
