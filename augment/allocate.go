package augment

import (
	"cmp"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// allocation assigns servers of a pool to models.
type allocation struct {
	pool    *Pool
	byLabel []int     // the models in order of label, the order they are served in
	wanted  []int     // per model: servers held now
	servers [][]int32 // per model: the servers, in the order they were picked
	claimed []bool    // per server
	valid   bool
}

func newAllocation(pool *Pool) *allocation {
	labels := pool.cfg.ModelLabels
	a := &allocation{
		pool:    pool,
		byLabel: make([]int, len(labels)),
		wanted:  make([]int, len(labels)),
		servers: make([][]int32, len(labels)),
		claimed: make([]bool, pool.NumServers()),
	}
	for m := range labels {
		a.byLabel[m] = m
	}
	slices.SortFunc(a.byLabel, func(x, y int) int { return cmp.Compare(labels[x], labels[y]) })
	return a
}

// update makes model m hold wanted[m] servers and reports which models' servers
// were assigned anew: those at index first and after in order of label.
//
// Models are served in order of label. Each takes turns over the phases A, B,
// C, A, ..., from each the server it likes best among those not yet taken,
// passing over a phase that has none left. So a model's servers depend on the
// models before it and on nothing else, and what stands before the first change
// stays.
func (a *allocation) update(wanted []int) (first int, err error) {
	first = 0
	if a.valid {
		for first < len(a.byLabel) && a.wanted[a.byLabel[first]] == wanted[a.byLabel[first]] {
			first++
		}
	}
	for _, m := range a.byLabel[first:] {
		for _, s := range a.servers[m] {
			a.claimed[s] = false
		}
		a.servers[m] = a.servers[m][:0]
	}
	a.valid = false
	for _, m := range a.byLabel[first:] {
		if !a.pick(m, wanted[m]) {
			return first, &OversubscribedError{a.pool.cfg.ModelLabels[m], wanted[m], len(a.servers[m])}
		}
		a.wanted[m] = wanted[m]
	}
	a.valid = true
	return first, nil
}

// pick gives model m its k servers and reports whether there were enough.
func (a *allocation) pick(m, k int) bool {
	a.servers[m] = slices.Grow(a.servers[m], k)
	rest := a.pool.preferences[m] // a copy: the lists are consumed below
	for phase := 0; len(a.servers[m]) < k; {
		found := false
		for try := range datacenter.NumPhases {
			p := (phase + try) % datacenter.NumPhases
			server, ok := a.take(&rest[p])
			if ok {
				a.servers[m] = append(a.servers[m], server)
				phase, found = p+1, true
				break
			}
		}
		if !found {
			return false
		}
	}
	return true
}

// take claims the first server of list that is free and drops all up to it.
func (a *allocation) take(list *[]int32) (server int32, ok bool) {
	for i, s := range *list {
		if !a.claimed[s] {
			a.claimed[s] = true
			*list = (*list)[i+1:]
			return s, true
		}
	}
	*list = nil
	return 0, false
}
