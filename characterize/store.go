package characterize

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// The files below a data directory. OpenG2G passes them over.
const (
	characterizationFolder = "characterization"
	pointsFolder           = "points"
	lockFile               = "lock"
	reportFile             = "report.json"
	tableFile              = "report.txt"
)

// store keeps points below a data directory.
type store struct {
	dir  string // of the characterization
	lock *os.File
}

// openStore makes the folder and takes it for this program alone, by lock. Its errors
// wrap [datacenter.ErrInvalidInput].
func openStore(dataDir string, lock func(*os.File) error) (*store, error) {
	s := &store{dir: filepath.Join(dataDir, characterizationFolder)}
	err := os.MkdirAll(filepath.Join(s.dir, pointsFolder), 0o777)
	if err == nil {
		s.lock, err = os.OpenFile(filepath.Join(s.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o666)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err)
	}
	switch err := lock(s.lock); {
	case err == nil:
		return s, nil
	case errors.Is(err, atomicfile.ErrLocked):
		err = fmt.Errorf("%w: %s: another characterization is under way there", datacenter.ErrInvalidInput, s.dir)
		return nil, errors.Join(err, s.lock.Close())
	default:
		err = fmt.Errorf("%w: lock %s: %w; choose a directory on a disk that has locks", datacenter.ErrInvalidInput, s.lock.Name(), err)
		return nil, errors.Join(err, s.lock.Close())
	}
}

func (s *store) close() { _ = s.lock.Close() }

// pointFile is where a point is kept. Labels are escaped: they may be no names of files.
func (s *store) pointFile(spec *Spec) string {
	label := strings.ReplaceAll(url.QueryEscape(spec.ModelLabel), ".", "%2E")
	return filepath.Join(s.dir, pointsFolder, label, fmt.Sprintf("batch_%d_repeat_%d.json.gz", spec.BatchSize, spec.Repeat))
}

// load takes up a point, nil if there is none. One of something else is an error.
func (s *store) load(spec *Spec) (*Point, error) {
	file := s.pointFile(spec)
	p, err := loadPoint(file)
	if p == nil || err != nil {
		return nil, err
	}
	if p.Spec != *spec {
		return nil, fmt.Errorf("%w: %s is of another measurement (%s); ask for the same, write to another directory, or remove the file",
			datacenter.ErrInvalidInput, file, p.difference(spec))
	}
	return p, nil
}

// maxDifference bounds what a message says of one thing that differs, in bytes.
const maxDifference = 400

// difference names what differs between what a point is of and what is wanted.
func (s *Spec) difference(want *Spec) string {
	var parts []string
	for _, f := range []struct {
		name      string
		has, want any
	}{
		{"model_label", s.ModelLabel, want.ModelLabel}, {"model_id", s.ModelID, want.ModelID},
		{"gpu_model", s.GPUModel, want.GPUModel}, {"task", s.Task, want.Task}, {"precision", s.Precision, want.Precision},
		{"tensor_parallel", s.TensorParallel, want.TensorParallel}, {"expert_parallel", s.ExpertParallel, want.ExpertParallel},
		{"gpus_per_replica", s.GPUsPerReplica, want.GPUsPerReplica}, {"number of GPUs", s.NumGPUs, want.NumGPUs},
		{"number of servers", s.NumServers, want.NumServers}, {"servers", s.Servers, want.Servers},
		{"max_output_tokens", s.MaxOutputTokens, want.MaxOutputTokens},
		{"what the servers are asked (requests, minimal requests, request_extra_body): SHA-256", s.RequestsSHA256, want.RequestsSHA256},
		{"batch size", s.BatchSize, want.BatchSize}, {"repeat", s.Repeat, want.Repeat},
		{"measure_s", s.MeasureS, want.MeasureS}, {"steady_s", s.SteadyS, want.SteadyS},
	} {
		if f.has != f.want {
			parts = append(parts, excerpt.Printable(fmt.Sprintf("%s %v, wanted is %v", f.name, f.has, f.want), maxDifference))
		}
	}
	return strings.Join(parts, "; ")
}

// save keeps a point, and removes what a call that was cut off left of it.
func (s *store) save(p *Point) error {
	file := s.pointFile(&p.Spec)
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return err
	}
	removeLeftovers(file)
	return savePoint(file, p)
}

// saveReport writes the report, for programs and for people.
func (s *store) saveReport(r *Report) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	var table strings.Builder
	if err := r.WriteText(&table); err != nil {
		return err
	}
	for name, content := range map[string]string{reportFile: string(raw) + "\n", tableFile: table.String()} {
		file := filepath.Join(s.dir, name)
		removeLeftovers(file)
		f, err := atomicfile.Create(file)
		if err != nil {
			return err
		}
		defer f.Abort()
		if _, err := io.WriteString(f, content); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
		if err := f.Commit(); err != nil {
			return err
		}
	}
	return nil
}

func removeLeftovers(file string) {
	atomicfile.TakeLeftovers(file, func(_ *os.File, path string) { _ = os.Remove(path) })
}
