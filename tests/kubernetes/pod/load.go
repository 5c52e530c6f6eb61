package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// What became of all requests; the lab reads it (tests/lab/k8s/load.rs).
type answers struct {
	New           uint64            `json:"new"`
	Kept          uint64            `json:"kept"`
	Failed        map[string]uint64 `json:"failed"`
	Names         map[string]uint64 `json:"names"`
	LongestMillis int64             `json:"longest_millis"`

	lock sync.Mutex
}

// Between two requests of one kind to one address.
const interval = 5 * time.Millisecond

// For a connection to be made, and for an answer.
const patience = 3 * time.Second

// To each address: requests on a new connection each, and others on one connection that has to last.
func load(addresses []string) error {
	all := answers{Failed: map[string]uint64{}, Names: map[string]uint64{}}
	end := make(chan struct{})
	var running sync.WaitGroup
	for _, address := range addresses {
		running.Go(func() { all.ask(address, false, end) })
		running.Go(func() { all.ask(address, true, end) })
	}
	io.Copy(io.Discard, os.Stdin)
	close(end)
	running.Wait()
	return json.NewEncoder(os.Stdout).Encode(&all)
}

func (all *answers) ask(address string, keep bool, end chan struct{}) {
	var kept *connection
	start := time.Now()
	for {
		begin := time.Now()
		name, err := "", error(nil)
		if kept == nil {
			kept, err = dial(address)
		}
		if err == nil {
			name, err = kept.ask()
		}
		if err != nil {
			err = fmt.Errorf("%s after %.1f s, %s: %w", address, begin.Sub(start).Seconds(), kept, err)
		}
		// The client closes first: its kernel then keeps the port from being used again at once. A server that waits would refuse
		// what looks like an old packet from a client that shares an address with others by NAT.
		if kept != nil && (err != nil || !keep) {
			kept.Close()
			kept = nil
		}
		all.count(keep, name, err, time.Since(begin))
		select {
		case <-end:
			return
		case <-time.After(interval):
		}
	}
}

func (all *answers) count(keep bool, name string, err error, took time.Duration) {
	all.lock.Lock()
	defer all.lock.Unlock()
	all.LongestMillis = max(all.LongestMillis, took.Milliseconds())
	switch {
	case err != nil:
		all.Failed[err.Error()]++
		return
	case keep:
		all.Kept++
	default:
		all.New++
	}
	all.Names[name]++
}

// A connection of our own: those of net/http are given up when its goroutines do not get a processor for a while.
type connection struct {
	net.Conn
	reader *bufio.Reader
	asked  int
}

func dial(address string) (*connection, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	return &connection{Conn: conn, reader: bufio.NewReader(conn)}, nil
}

func (c *connection) String() string {
	if c == nil {
		return "not connected"
	}
	return fmt.Sprintf("request %d from %s", c.asked, c.LocalAddr())
}

// One request: who answered.
func (c *connection) ask() (string, error) {
	c.asked++
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: load\r\n\r\n"); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	for _, word := range strings.Fields(string(text)) {
		if found, ok := strings.CutPrefix(word, "name="); ok {
			return found, nil
		}
	}
	return "", fmt.Errorf("half an answer: %q", text)
}
