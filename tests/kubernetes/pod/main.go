// What runs in the Pods of the lab's real nodes: one static program for an image from scratch.
//
//	pod pause            the sandbox's first process: waits, and reaps what is left to it
//	pod serve [PORT]     HTTP and an echo over UDP, both answering with who they are and who asked
//	pod get URL          one HTTP request; prints the answer
//	pod lookup NAME      asks DNS; prints the addresses
//	pod load ADDRESS...  requests without end, until the standard input ends; prints what became of them (load.go)
//
// A server that is told to end (SIGTERM) goes on for $DRAIN_SECONDS, as a preStop hook that sleeps would have it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(words []string) error {
	switch {
	case len(words) == 1 && words[0] == "pause":
		return pause()
	case len(words) == 1 && words[0] == "serve":
		return serve("8080")
	case len(words) == 2 && words[0] == "serve":
		return serve(words[1])
	case len(words) == 2 && words[0] == "get":
		return get(words[1])
	case len(words) == 2 && words[0] == "lookup":
		return lookup(words[1])
	case len(words) >= 2 && words[0] == "load":
		return load(words[1:])
	}
	return errors.New("usage: pod pause | serve [PORT] | get URL | lookup NAME")
}

func pause() error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for one := range signals {
		if one != syscall.SIGCHLD {
			return nil
		}
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
	}
	return nil
}

// Words that the lab reads: the same that its nginx says.
func words(server, client string) string {
	name, _ := os.Hostname()
	serverHost, serverPort, _ := net.SplitHostPort(server)
	clientHost, clientPort, _ := net.SplitHostPort(client)
	return fmt.Sprintf("name=%s server=%s server_port=%s client=%s client_port=%s\n",
		name, serverHost, serverPort, clientHost, clientPort)
}

func serve(port string) error {
	datagrams, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	go echo(datagrams)
	answer := func(to http.ResponseWriter, request *http.Request) {
		local, _ := request.Context().Value(http.LocalAddrContextKey).(net.Addr)
		io.WriteString(to, words(local.String(), request.RemoteAddr))
	}
	server := &http.Server{Addr: ":" + port, Handler: http.HandlerFunc(answer)}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	select {
	case err := <-ended:
		return err
	case <-signals:
	}
	drain, _ := strconv.Atoi(os.Getenv("DRAIN_SECONDS"))
	time.Sleep(time.Duration(drain) * time.Second)
	limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return server.Shutdown(limit)
}

func echo(socket net.PacketConn) {
	buffer := make([]byte, 2048)
	for {
		_, client, err := socket.ReadFrom(buffer)
		if err != nil {
			return
		}
		socket.WriteTo([]byte(words(socket.LocalAddr().String(), client.String())), client)
	}
}

func get(url string) error {
	client := &http.Client{Timeout: 3 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

func lookup(name string) error {
	limit, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(limit, name)
	if err != nil {
		return err
	}
	for _, address := range addresses {
		fmt.Println(address)
	}
	return nil
}
