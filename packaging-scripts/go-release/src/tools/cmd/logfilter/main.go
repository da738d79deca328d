// logfilter selects JSON lines, hides secrets in them, and packs them in frames for shipping.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"tools.example/internal/cli"
	"tools.example/internal/records"
	"tools.example/internal/squash"
)

const usage = `logfilter [-match FIELD=PATTERN]... [-hide FIELD]... [-pack] | -unpack | -library`

// batch is how many bytes of lines are packed in one frame.
const batch = 64 << 10

type rule struct {
	field   string
	pattern *regexp.Regexp
}

type filter struct {
	rules []rule
	hide  []string
}

func main() {
	cli.Main("logfilter", func(arguments []string, out io.Writer) error { return run(arguments, os.Stdin, out) })
}

func run(arguments []string, in io.Reader, out io.Writer) error {
	var chosen filter
	flags := cli.Flags(usage)
	flags.Func("match", "keep lines whose field matches a pattern", chosen.match)
	flags.Func("hide", "replace a field by its hash", func(field string) error {
		chosen.hide = append(chosen.hide, field)
		return nil
	})
	pack := flags.Bool("pack", false, "write packed frames")
	unpack := flags.Bool("unpack", false, "read packed frames, write lines")
	library := flags.Bool("library", false, "print the version of the library")
	if _, err := cli.Parse(flags, arguments, 0); err != nil {
		return err
	}
	buffered := bufio.NewWriter(out)
	var err error
	switch {
	case *library:
		_, err = fmt.Fprintln(buffered, "squash", squash.Version())
	case *unpack:
		err = unpackFrames(in, buffered)
	case *pack:
		packer := &packer{out: buffered}
		if err = chosen.copy(in, packer); err == nil {
			err = packer.flush()
		}
	default:
		err = chosen.copy(in, buffered)
	}
	if err != nil {
		return err
	}
	return buffered.Flush()
}

func (chosen *filter) match(text string) error {
	field, pattern, ok := strings.Cut(text, "=")
	if !ok {
		return errors.New("FIELD=PATTERN is needed")
	}
	compiled, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	chosen.rules = append(chosen.rules, rule{field, compiled})
	return nil
}

func (chosen *filter) copy(in io.Reader, out io.Writer) error {
	return records.Each(in, func(record records.Record) error {
		for _, rule := range chosen.rules {
			value, ok := record.Field(rule.field)
			if !ok || !rule.pattern.MatchString(fmt.Sprint(value)) {
				return nil
			}
		}
		for _, field := range chosen.hide {
			if value, ok := record.Field(field); ok {
				record.Set(field, fmt.Sprintf("hidden-%016x", squash.Hash(fmt.Sprint(value))))
			}
		}
		line, err := json.Marshal(record)
		if err != nil {
			return err
		}
		_, err = out.Write(append(line, '\n'))
		return err
	})
}

// A packer writes frames, each with its size in front.
type packer struct {
	out   io.Writer
	lines bytes.Buffer
}

func (packer *packer) Write(line []byte) (int, error) {
	packer.lines.Write(line)
	if packer.lines.Len() < batch {
		return len(line), nil
	}
	return len(line), packer.flush()
}

func (packer *packer) flush() error {
	if packer.lines.Len() == 0 {
		return nil
	}
	frame := squash.Frame(packer.lines.Bytes())
	packer.lines.Reset()
	if err := binary.Write(packer.out, binary.LittleEndian, uint32(len(frame))); err != nil {
		return err
	}
	_, err := packer.out.Write(frame)
	return err
}

func unpackFrames(in io.Reader, out io.Writer) error {
	for {
		var size uint32
		if err := binary.Read(in, binary.LittleEndian, &size); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		frame, err := io.ReadAll(io.LimitReader(in, int64(size)))
		if err != nil {
			return err
		}
		if uint32(len(frame)) != size {
			return squash.ErrDamaged
		}
		lines, err := squash.Unframe(frame)
		if err != nil {
			return err
		}
		if _, err := out.Write(lines); err != nil {
			return err
		}
	}
}
