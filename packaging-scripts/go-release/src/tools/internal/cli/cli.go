// Package cli is shared by the programs: how they start, fail and print.
package cli

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
)

// A Command runs a program with its arguments.
type Command func(arguments []string, out io.Writer) error

// ErrUsage says that the arguments are wrong. The reason has been printed.
var ErrUsage = errors.New("usage")

// Main runs a command, prints its error, and ends the process: 0, 1 if it failed, 2 if the arguments are wrong.
func Main(name string, command Command) {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Printf("%s 1.0 (%s)\n", name, runtime.Version())
		return
	}
	switch err := command(os.Args[1:], os.Stdout); {
	case err == nil:
	case errors.Is(err, ErrUsage) || errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Flags returns a set of flags that reports errors instead of ending the process.
func Flags(usage string) *flag.FlagSet {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: "+usage)
		flags.PrintDefaults()
	}
	return flags
}

// Parse reads flags and exactly count arguments behind them.
func Parse(flags *flag.FlagSet, arguments []string, count int) ([]string, error) {
	if err := flags.Parse(arguments); err != nil {
		return nil, ErrUsage
	}
	if flags.NArg() != count {
		flags.Usage()
		return nil, ErrUsage
	}
	return flags.Args(), nil
}

// PrintJSON writes a value as indented JSON.
func PrintJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
