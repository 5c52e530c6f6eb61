package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
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

// To each address: requests on a new connection each, and others on one connection that has to last.
func load(urls []string) error {
	all := answers{Failed: map[string]uint64{}, Names: map[string]uint64{}}
	end := make(chan struct{})
	var running sync.WaitGroup
	for _, url := range urls {
		running.Go(func() { all.ask(url, false, end) })
		running.Go(func() { all.ask(url, true, end) })
	}
	io.Copy(io.Discard, os.Stdin)
	close(end)
	running.Wait()
	return json.NewEncoder(os.Stdout).Encode(&all)
}

func (all *answers) ask(url string, keep bool, end chan struct{}) {
	transport := &http.Transport{DisableKeepAlives: !keep}
	client := &http.Client{Timeout: 3 * time.Second, Transport: transport}
	server := ""
	for {
		begin := time.Now()
		name, reused, err := ask(client, url)
		if err == nil && keep && server != "" && (!reused || name != server) {
			err = fmt.Errorf("the kept connection to %s is gone, another leads to %s", server, name)
		}
		server = name
		all.count(url, keep, name, err, time.Since(begin))
		select {
		case <-end:
			return
		case <-time.After(interval):
		}
	}
}

func (all *answers) count(url string, keep bool, name string, err error, took time.Duration) {
	all.lock.Lock()
	defer all.lock.Unlock()
	all.LongestMillis = max(all.LongestMillis, took.Milliseconds())
	if err == nil {
		all.Names[name]++
	}
	switch {
	case err != nil:
		all.Failed[fmt.Sprintf("%s: %v", url, err)]++
	case keep:
		all.Kept++
	default:
		all.New++
	}
}

// One request: who answered, and whether the connection had been used before.
func ask(client *http.Client, url string) (name string, reused bool, err error) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", false, err
	}
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
	response, err := client.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if err != nil {
		return "", reused, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", reused, err
	}
	for _, word := range strings.Fields(string(text)) {
		if found, ok := strings.CutPrefix(word, "name="); ok {
			return found, reused, nil
		}
	}
	return "", reused, fmt.Errorf("half an answer: %q", text)
}
