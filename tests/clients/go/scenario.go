// The scenario (see ../scenario.md) with franz-go, whose producer is idempotent by default.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	bootstrap = os.Getenv("BOOTSTRAP")
	topic     = os.Getenv("TOPIC")
	group     = os.Getenv("GROUP")
	state     = filepath.Join(os.Getenv("CLIENT_CACHE"), "committed")
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func client(options ...kgo.Opt) *kgo.Client {
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(bootstrap)}, options...)...)
	must(err)
	return c
}

func produce(ctx context.Context, from, to int) {
	c := client(kgo.DefaultProduceTopic(topic))
	defer c.Close()
	var records []*kgo.Record
	for n := from; n < to; n++ {
		records = append(records, &kgo.Record{Key: fmt.Appendf(nil, "k%d", n), Value: fmt.Appendf(nil, "v%d", n)})
	}
	must(c.ProduceSync(ctx, records...).FirstErr())
}

// read takes exactly count records of the topic in the group and commits exactly those.
func read(ctx context.Context, group string, count int) []*kgo.Record {
	c := client(kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer c.Close()
	var records []*kgo.Record
	for len(records) < count {
		fetches := c.PollRecords(ctx, count-len(records))
		must(fetches.Err0())
		records = append(records, fetches.Records()...)
	}
	must(c.CommitRecords(ctx, records...))
	return records
}

func check(records []*kgo.Record, want map[int]bool) {
	type place struct{ offset, n int64 }
	last := map[int32]place{}
	for _, r := range records {
		n, err := strconv.Atoi(string(r.Key[1:]))
		must(err)
		if !want[n] {
			log.Fatalf("record %d is repeated or was committed before", n)
		}
		delete(want, n)
		if !bytes.Equal(r.Key[1:], r.Value[1:]) {
			log.Fatalf("key %s holds value %s", r.Key, r.Value)
		}
		if before, seen := last[r.Partition]; seen && (before.offset >= r.Offset || before.n >= int64(n)) {
			log.Fatalf("out of order in partition %d: %d", r.Partition, n)
		}
		last[r.Partition] = place{r.Offset, int64(n)}
	}
	if len(want) > 0 {
		log.Fatalf("%d records are lost", len(want))
	}
}

func numbers(from, to int) map[int]bool {
	all := map[int]bool{}
	for n := from; n < to; n++ {
		all[n] = true
	}
	return all
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if os.Args[1] == "first" {
		c := client()
		_, err := kadm.NewClient(c).CreateTopic(ctx, 3, 1, nil, topic)
		must(err)
		c.Close()
		produce(ctx, 0, 1000)
		var committed []string
		for _, r := range read(ctx, group, 500) {
			committed = append(committed, string(r.Key[1:]))
		}
		must(os.WriteFile(state, []byte(strings.Join(committed, "\n")), 0o600))
		return
	}
	produce(ctx, 1000, 1200)
	rest := numbers(0, 1200)
	text, err := os.ReadFile(state)
	must(err)
	for _, line := range strings.Fields(string(text)) {
		n, err := strconv.Atoi(line)
		must(err)
		delete(rest, n)
	}
	check(read(ctx, group, len(rest)), rest)
	check(read(ctx, group+"-all", 1200), numbers(0, 1200))
}
