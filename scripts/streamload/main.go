// Command streamload follows a running agent with many WebSocket clients, some of
// which never read, and checks that the others miss nothing.
//
//	streamload -url ws://127.0.0.1:8480/v1/stream -clients 500 -stalled 250 -duration-s 60
//
// It ends with status 1 if a client that reads missed a state, was told that it
// did, or lost its connection.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "streamload:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("streamload", flag.ContinueOnError)
	address := flags.String("url", "ws://127.0.0.1:8480/v1/stream", "the agent's stream of states")
	clients := flags.Int("clients", 500, "WebSocket clients")
	stalled := flags.Int("stalled", 250, "how many of them never read")
	durationS := flags.Float64("duration-s", 60, "how long they follow, from when all are connected")
	token := flags.String("token", os.Getenv("G2G_TOKEN"), "the agent's read or control token; G2G_TOKEN in the environment")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *clients < 1 || *stalled < 0 || *stalled >= *clients {
		return fmt.Errorf("%d clients, of which %d stalled: at least one must read", *clients, *stalled)
	}
	target, err := streamURL(*address)
	if err != nil {
		return err
	}
	d := dialer{url: target, token: *token}

	ctx, cancel := context.WithCancel(ctx)
	var all, reading sync.WaitGroup
	defer func() {
		cancel()
		reading.Wait()
		all.Wait()
	}()
	deaf := make([]*deafClient, *stalled)
	readers := make([]*reader, *clients-*stalled)
	stop := newFinish()
	for i := range *clients {
		conn, err := d.dial(ctx, i < *stalled)
		if err != nil {
			return fmt.Errorf("client %d: %w", i, err)
		}
		if i < *stalled {
			c := &deafClient{dialer: d, conn: conn}
			deaf[i] = c
			all.Go(func() { c.hold(ctx) })
			continue
		}
		r := &reader{conn: conn}
		readers[i-*stalled] = r
		context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends its read
		reading.Go(func() { r.follow(stop) })
	}
	fmt.Fprintf(out, "%d clients follow %s, %d more never read\n", len(readers), target, *stalled)
	_ = backoff.Sleep(ctx, time.Duration(*durationS*float64(time.Second))) // the report tells of what came until then
	stop.at(readers)
	patience := time.AfterFunc(15*time.Second, cancel) // for those that are behind
	reading.Wait()
	patience.Stop()
	cancel()
	all.Wait() // with what they have counted
	return report(out, readers, deaf)
}

// streamURL completes the address of an agent.
func streamURL(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	switch u.Scheme {
	case "http":
		u.Scheme = "ws"
	case "https":
		u.Scheme = "wss"
	case "ws", "wss":
	default:
		return "", fmt.Errorf("%s is no address of an agent, want such as ws://127.0.0.1:8480/v1/stream", address)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/stream"
	}
	return u.String(), nil
}

// report prints what the clients saw, and returns what should not have been.
func report(out io.Writer, readers []*reader, deaf []*deafClient) error {
	var received, missed, skipped, failed int64
	fewest, most := int64(math.MaxInt64), int64(0)
	var delays []float64
	var first error
	for i, r := range readers {
		received += r.received
		missed += r.missed
		skipped += r.skipped
		fewest, most = min(fewest, r.received), max(most, r.received)
		delays = append(delays, r.delaysS...)
		if r.err != nil {
			failed++
			if first == nil {
				first = fmt.Errorf("reading client %d: %w", i, r.err)
			}
		}
	}
	var reconnects int64
	for i, c := range deaf {
		reconnects += c.reconnects
		if c.err != nil && first == nil {
			first = fmt.Errorf("stalled client %d: %w", i, c.err)
		}
	}
	fmt.Fprintf(out, "reading: %d clients, %d states received (%d to %d each), %d missed, %d announced as skipped, %d connections lost\n",
		len(readers), received, fewest, most, missed, skipped, failed)
	if len(delays) > 0 {
		q := measuring.Quantiles(delays, 0.5, 0.99, 0.999, 1)
		fmt.Fprintf(out, "delay from a state's wall_time to its receipt: p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, longest %.2f ms\n",
			1e3*q[0], 1e3*q[1], 1e3*q[2], 1e3*q[3])
	}
	fmt.Fprintf(out, "stalled: %d clients, closed by the agent and connected anew %d times\n", len(deaf), reconnects)
	switch {
	case first != nil:
		return first
	case missed+skipped > 0:
		return fmt.Errorf("clients that read missed %d states, %d of them unannounced", missed+skipped, missed)
	case fewest == 0:
		return errors.New("a client that reads received nothing")
	}
	return nil
}
