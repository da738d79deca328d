// Reads one tar archive, plain or gzip, with Go's own libraries, as the Go agent's and the CLI's authors would.
//
//	go_reader names ARCHIVE      the names of its entries, raw
//	go_reader contents ARCHIVE   name, size and SHA-1 of each file, name and target of each symbolic link
//
// A gzip file must be exactly one member: data after it is an error, although Go would read on.
package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if len(os.Args) != 3 || (os.Args[1] != "names" && os.Args[1] != "contents") {
		fmt.Fprintln(os.Stderr, "usage: go_reader names|contents ARCHIVE")
		os.Exit(2)
	}
	out := bufio.NewWriter(os.Stdout)
	err := read(os.Args[2], os.Args[1] == "contents", out)
	if flushed := out.Flush(); err == nil {
		err = flushed
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[2], err)
		os.Exit(1)
	}
}

func read(path string, contents bool, out io.Writer) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	// The decompressor reads single bytes from this where necessary, so it never reads too far.
	bytes := bufio.NewReader(file)
	magic, err := bytes.Peek(2)
	if err != nil {
		return err
	}
	if string(magic) != "\x1f\x8b" {
		return list(bytes, contents, out)
	}
	member, err := gzip.NewReader(bytes)
	if err != nil {
		return err
	}
	member.Multistream(false)
	if err := list(member, contents, out); err != nil {
		return err
	}
	if _, err := bytes.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("more bytes after the first gzip member (%v)", err)
	}
	return nil
}

// list reads an archive and everything after it, up to the end of the input.
func list(input io.Reader, contents bool, out io.Writer) error {
	archive := tar.NewReader(input)
	// The targets of hard links.
	known := map[string]string{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if !contents {
			fmt.Fprintln(out, header.Name)
			continue
		}
		name := plain(header.Name)
		switch header.Typeflag {
		case tar.TypeReg, tar.TypeGNUSparse:
			sum := sha1.New()
			size, err := io.Copy(sum, archive)
			if err != nil {
				return fmt.Errorf("%s: %w", header.Name, err)
			}
			known[name] = fmt.Sprintf("%d\t%x", size, sum.Sum(nil))
			fmt.Fprintf(out, "%s\t%s\n", name, known[name])
		case tar.TypeLink:
			content, isThere := known[plain(header.Linkname)]
			if !isThere {
				return fmt.Errorf("%s: a hard link to %s, which is not before it", header.Name, header.Linkname)
			}
			known[name] = content
			fmt.Fprintf(out, "%s\t%s\n", name, content)
		case tar.TypeSymlink:
			fmt.Fprintf(out, "%s\t->\t%s\n", name, header.Linkname)
		}
	}
	rest, err := io.ReadAll(input)
	if err != nil {
		return err
	}
	if strings.Trim(string(rest), "\x00") != "" {
		return errors.New("data after the end of the archive")
	}
	return nil
}

// plain normalizes a name as all readers do: `./a//b` and `a/b` are one file.
func plain(name string) string {
	var parts []string
	for _, part := range strings.Split(name, "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/")
}
