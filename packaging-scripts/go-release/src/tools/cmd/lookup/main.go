// lookup answers questions for addresses over UDP from a file, and asks them with a cache in between.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"tools.example/internal/cli"
	"tools.example/internal/squash"
	"tools.example/internal/ttlcache"
)

const usage = `lookup [-ttl SECONDS] HOSTS-FILE NAME...`

// shards is how many caches share the names, so that they do not wait for one another.
const shards = 8

type resolver struct {
	server net.Conn
	caches [shards]*ttlcache.Cache[string, netip.Addr]
	asked  int
}

func main() {
	cli.Main("lookup", run)
}

func run(arguments []string, out io.Writer) error {
	flags := cli.Flags(usage)
	lifetime := flags.Uint("ttl", 60, "how long an answer is good for, in seconds")
	if err := flags.Parse(arguments); err != nil {
		return cli.ErrUsage
	}
	if flags.NArg() < 2 {
		flags.Usage()
		return cli.ErrUsage
	}
	hosts, err := readHosts(flags.Arg(0))
	if err != nil {
		return err
	}
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer socket.Close()
	go serve(socket, hosts, uint32(*lifetime))
	server, err := net.Dial("udp", socket.LocalAddr().String())
	if err != nil {
		return err
	}
	defer server.Close()
	resolver := resolver{server: server}
	for shard := range resolver.caches {
		resolver.caches[shard] = ttlcache.New[string, netip.Addr](1000, time.Now)
	}
	for _, name := range flags.Args()[1:] {
		address, err := resolver.find(strings.ToLower(name))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(out, "%s %s\n", name, shown(address))
	}
	hits := 0
	for _, cache := range resolver.caches {
		found, _ := cache.Counts()
		hits += found
	}
	_, err = fmt.Fprintf(out, "%d asked, %d from the cache\n", resolver.asked, hits)
	return err
}

func readHosts(path string) (map[string]netip.Addr, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	hosts := make(map[string]netip.Addr)
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		address, err := netip.ParseAddr(words[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, name := range words[1:] {
			if address.Is4() && isName(name) {
				hosts[strings.ToLower(name)] = address
			}
		}
	}
	return hosts, lines.Err()
}

// serve answers until the socket is closed.
func serve(socket net.PacketConn, hosts map[string]netip.Addr, lifetime uint32) {
	buffer := make([]byte, 512)
	for {
		size, from, err := socket.ReadFrom(buffer)
		if err != nil {
			return
		}
		question, err := decode(buffer[:size])
		if err != nil {
			continue
		}
		address, ok := hosts[question.name]
		answer := message{id: question.id, answer: true, missing: !ok, name: question.name, address: address, lifetime: lifetime}
		if _, err := socket.WriteTo(answer.encode(), from); err != nil {
			return
		}
	}
}

// find looks up a name in the cache of its shard, or asks the server. It returns an invalid address if the name has none.
func (resolver *resolver) find(name string) (netip.Addr, error) {
	if !isName(name) {
		return netip.Addr{}, fmt.Errorf("not a name")
	}
	cache := resolver.caches[squash.Hash(name)%shards]
	if address, ok := cache.Get(name); ok {
		return address, nil
	}
	resolver.asked++
	question := message{id: uint16(resolver.asked), name: name}
	if _, err := resolver.server.Write(question.encode()); err != nil {
		return netip.Addr{}, err
	}
	if err := resolver.server.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return netip.Addr{}, err
	}
	buffer := make([]byte, 512)
	size, err := resolver.server.Read(buffer)
	if err != nil {
		return netip.Addr{}, err
	}
	answer, err := decode(buffer[:size])
	if err != nil {
		return netip.Addr{}, err
	}
	if answer.id != question.id || answer.name != name {
		return netip.Addr{}, fmt.Errorf("the answer is to another question")
	}
	if answer.missing {
		return netip.Addr{}, nil
	}
	cache.Put(name, answer.address, time.Duration(answer.lifetime)*time.Second)
	return answer.address, nil
}

func shown(address netip.Addr) string {
	if !address.IsValid() {
		return "none"
	}
	return address.String()
}
