// Package records reads and writes JSON lines, and looks up nested fields of JSON values.
package records

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// A Record is one line of a log.
type Record map[string]any

// Each calls visit with every record of a stream. A line that is not a JSON object is an error that names the line.
func Each(in io.Reader, visit func(Record) error) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for number := 1; lines.Scan(); number++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var record Record
		if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if err := visit(record); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	return lines.Err()
}

// Field finds a value by its dotted path, such as "request.host".
func (record Record) Field(path string) (any, bool) {
	var value any = map[string]any(record)
	for _, name := range strings.Split(path, ".") {
		object, ok := value.(map[string]any)
		if !ok {
			return nil, false
		}
		if value, ok = object[name]; !ok {
			return nil, false
		}
	}
	return value, true
}

// Set replaces the value at a dotted path. It reports whether there was one.
func (record Record) Set(path string, value any) bool {
	parent, name, nested := "", path, false
	if at := strings.LastIndexByte(path, '.'); at >= 0 {
		parent, name, nested = path[:at], path[at+1:], true
	}
	object := map[string]any(record)
	if nested {
		found, _ := record.Field(parent)
		if object, nested = found.(map[string]any); !nested {
			return false
		}
	}
	if _, ok := object[name]; !ok {
		return false
	}
	object[name] = value
	return true
}

// ReadFile decodes a JSON file into a value. Unknown fields are errors.
func ReadFile(path string, value any) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(value); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
