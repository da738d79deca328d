// render fills templates with properties: HTML with everything escaped for where it stands, and plain text as it is.
package main

import (
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	plain "text/template"

	"tools.example/internal/cli"
	"tools.example/internal/records"
)

const usage = `render PROPERTIES.json TEMPLATE`

func main() {
	cli.Main("render", run)
}

func run(arguments []string, out io.Writer) error {
	words, err := cli.Parse(cli.Flags(usage), arguments, 2)
	if err != nil {
		return err
	}
	var properties records.Record
	if err := records.ReadFile(words[0], &properties); err != nil {
		return err
	}
	text, err := os.ReadFile(words[1])
	if err != nil {
		return err
	}
	return render(filepath.Base(words[1]), string(text), properties, out)
}

// render decides by the name: *.html is HTML.
func render(name, text string, properties records.Record, out io.Writer) error {
	functions := map[string]any{
		// The property at a path, such as p "server.port". One that is missing is an error.
		"p": func(path string) (any, error) {
			if value, ok := properties.Field(path); ok {
				return value, nil
			}
			return nil, fmt.Errorf("there is no property %s", path)
		},
		"has":   func(path string) bool { _, ok := properties.Field(path); return ok },
		"upper": strings.ToUpper,
		"keys": func(value any) ([]string, error) {
			object, ok := value.(map[string]any)
			if !ok {
				return nil, errors.New("keys: not an object")
			}
			var keys []string
			for key := range object {
				keys = append(keys, key)
			}
			sort.Strings(keys)
			return keys, nil
		},
	}
	if filepath.Ext(name) == ".html" {
		page, err := template.New(name).Funcs(functions).Parse(text)
		if err != nil {
			return err
		}
		return page.Execute(out, properties)
	}
	page, err := plain.New(name).Funcs(functions).Parse(text)
	if err != nil {
		return err
	}
	return page.Execute(out, properties)
}
