package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"

	"github.com/g2g-agent/g2g-agent/requests"
)

// hubPrompts is a data set of prompts on the hub. Its files are downloaded when prompts
// are wanted: all else that could be wrong has been looked at by then.
type hubPrompts struct {
	set      requests.Dataset
	revision string
	environ  []string
	line     *statusLine
}

// Sample implements [requests.Source].
func (p hubPrompts) Sample(ctx context.Context, n int, seed uint64) ([]requests.Prompt, []string, error) {
	dir, err := p.fetch(ctx)
	if err != nil {
		return nil, nil, err
	}
	source, err := p.set.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	return source.Sample(ctx, n, seed)
}

// fetch brings the files to this machine.
func (p hubPrompts) fetch(ctx context.Context) (dir string, err error) {
	data, err := openHub(p.environ, p.line, p.set.Repository, p.revision)
	if err != nil {
		return "", err
	}
	defer data.close()
	var files []string
	for _, pattern := range p.set.Files {
		matching, err := data.match(ctx, pattern)
		if err != nil {
			return "", err
		}
		files = append(files, matching...)
	}
	if missing := missingShard(files); missing != "" {
		// A listing of a cache may be a part: prompts of a part would be other ones.
		return "", fmt.Errorf("%s: %s is missing among the files that are known; unset HF_HUB_OFFLINE and try again, or name a whole copy by --data",
			p.set.Repository, missing)
	}
	return data.Fetch(ctx, files)
}

// missingShard is a file that others say is there: NAME-00000-of-00002.parquet speaks of
// two. It is empty if none is missing.
func missingShard(files []string) string {
	shard := regexp.MustCompile(`^(.*-)\d{5}(-of-(\d{5})\.[^/]*)$`)
	there, looked := map[string]bool{}, map[string]bool{}
	for _, file := range files {
		there[file] = true
	}
	for _, file := range files {
		parts := shard.FindStringSubmatch(file)
		if parts == nil || looked[parts[1]+parts[2]] {
			continue
		}
		looked[parts[1]+parts[2]] = true
		count, _ := strconv.Atoi(parts[3]) // five digits
		for i := range count {
			if name := fmt.Sprintf("%s%05d%s", parts[1], i, parts[2]); !there[name] {
				return name
			}
		}
	}
	return ""
}
