// Package requests makes request files: what vLLM servers are asked in a live run,
// drawn from data sets of prompts, with the bytes that OpenG2G's RequestStore writes.
//
// A [Source] yields prompts, in an order that the seed alone decides; [Generate]
// writes them as chat completion requests to each model, a file LABEL.jsonl a model,
// which package loadgen reads.
package requests

import (
	"context"
	"fmt"
	"iter"
	"path/filepath"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/pyjson"
	"github.com/g2g-agent/g2g-agent/internal/pyrand"
)

// Config is OpenG2G's RequestsConfig, without the data set.
type Config struct {
	NumRequests         int    // of each model
	MaxCompletionTokens int    // that each request asks for
	Seed                uint64 // of the order, the choices and what fills up
	// SystemPrompt is a message before every prompt; empty: there is none. A prompt that
	// begins with such a message itself keeps its own.
	SystemPrompt string
}

// Model is whom requests are made for.
type Model struct {
	Label string // names the file
	ID    string // the requests' model
	// ExtraBody is added to every request; what a request has already is replaced in its
	// place. Messages are put before the prompt, in place of the system prompt.
	ExtraBody pyjson.Object
}

// Message is one message of a conversation.
type Message struct{ Role, Text string }

// The roles of chat completions that mean something here.
const (
	roleSystem    = "system"
	roleDeveloper = "developer"
	roleUser      = "user"
	roleAssistant = "assistant"
)

// isSystem reports whether the message tells a model how to answer.
func (m *Message) isSystem() bool { return m.Role == roleSystem || m.Role == roleDeveloper }

// isBlank reports whether a prompt asks nothing: its last message is no text but blanks.
func (p *Prompt) isBlank() bool {
	return strings.TrimSpace(p.Messages[len(p.Messages)-1].Text) == ""
}

// Prompt is a conversation that a model is to continue.
type Prompt struct {
	Messages []Message
	// File and Row, counted from 1, are where it stands.
	File string
	Row  int
}

// Source is a data set of prompts.
type Source interface {
	// Sample returns the first n of its prompts in the order of the seed, all if they are
	// fewer, and what is odd about them. Errors name file, row and column, and wrap
	// [datacenter.ErrInvalidInput] where the data is at fault.
	Sample(ctx context.Context, n int, seed uint64) (prompts []Prompt, warnings []string, err error)
}

// Dataset is a data set that OpenG2G knows.
type Dataset struct {
	Name       string
	Repository string   // on the Hugging Face hub
	Files      []string // of the repository that are needed, as patterns of [path.Match]
	// Open returns the data set from a local copy of the repository, or of the files alone.
	Open func(dir string) (Source, error)
}

// Datasets are those that OpenG2G knows, its default first.
func Datasets() []Dataset {
	return []Dataset{
		{"lm-arena-chat", "lmarena-ai/arena-human-preference-100k", []string{"data/*.parquet"}, openLMArena},
		{"gpqa", "Idavidrein/gpqa", []string{gpqaFile}, openGPQA},
	}
}

// CheckLabel refuses labels that cannot name a file.
func CheckLabel(label string) error {
	if label == "" || label != filepath.Base(label) || strings.HasPrefix(label, ".") || strings.ContainsAny(label, "\x00/\\") {
		return invalidf("model label %s names the model's file, so it must not be empty, begin with a dot or have a slash in it", quote(label))
	}
	return nil
}

// filledUp yields n prompts: those that there are, then some of them again, as
// OpenG2G's _maybe_oversample chooses them.
func filledUp(prompts []Prompt, n int, seed uint64) iter.Seq[Prompt] {
	return func(yield func(Prompt) bool) {
		random := pyrand.New(seed)
		for i := range n {
			at := i
			if i >= len(prompts) {
				at = random.RandBelow(len(prompts))
			}
			if !yield(prompts[at]) {
				return
			}
		}
	}
}

const (
	// maxRequestBytes bounds a line of a request file, as package loadgen does.
	maxRequestBytes = 16 << 20
	// maxCellBytes bounds a text of a data set, or a row of a CSV file.
	maxCellBytes = 16 << 20
	// maxTextBytes bounds all texts that are kept.
	maxTextBytes = 4 << 30
	// maxQuoted bounds what a message repeats, in bytes.
	maxQuoted = 100
)

// budget is what is left of [maxTextBytes].
type budget struct{ used int }

func (b *budget) take(text string) error {
	if b.used += len(text); b.used > maxTextBytes {
		return invalidf("the prompts have more than %d GiB of text; want fewer requests", maxTextBytes>>30)
	}
	return nil
}

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, fmt.Errorf(format, args...))
}

func quote(text string) string { return excerpt.Quote(text, maxQuoted) }
