package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/pyjson"
	"github.com/g2g-agent/g2g-agent/requests"
)

// requestsCmd has OpenG2G's RequestsConfig as flags.
type requestsCmd struct {
	Out                 string   `placeholder:"DIR" help:"Directory to make, with a file LABEL.jsonl for each model. Default: live.requests_dir of the config. One that is there is used as it is."`
	Force               bool     `help:"Make the models' files anew if the directory is there."`
	Dataset             string   `placeholder:"NAME" help:"lm-arena-chat (default) or gpqa."`
	Data                string   `placeholder:"PATH" help:"Local copy of the data set: its directory, or the file. Default: what is needed of it on the Hugging Face hub."`
	Revision            string   `placeholder:"NAME" help:"Branch, tag or commit of the hub's data set. Default: main."`
	Prompts             string   `placeholder:"FILE" help:"Prompts of your own in place of a data set: .jsonl (a text, {prompt} or {messages} a line), .csv, or a line of text each."`
	Column              string   `default:"prompt" placeholder:"NAME" help:"Column of a CSV file of prompts."`
	Config              string   `placeholder:"FILE" help:"Config whose models are asked, with their request_extra_body."`
	Model               []string `sep:"none" placeholder:"LABEL=MODEL_ID" help:"A model to ask, in place of the config's or with it. Can be repeated."`
	ExtraBody           []string `sep:"none" placeholder:"LABEL=JSON" help:"What is added to each request to a model. Can be repeated."`
	NumRequests         int      `default:"1000" help:"Requests to each model."`
	MaxCompletionTokens int      `default:"512" help:"Tokens that a request asks for at most."`
	Seed                uint64   `default:"0" help:"Random seed."`
	SystemPrompt        string   `default:"You are a helpful AI assistant." placeholder:"TEXT" help:"System message of each request; empty for none."`
}

func (cmd requestsCmd) Run(ctx context.Context, term terminal) error {
	models, out, err := cmd.models(ctx, term)
	if err != nil {
		return err
	}
	if out = cmp.Or(cmd.Out, out); out == "" {
		return invalidf("--out DIR is missing: where the files go")
	}
	there, missing, err := requests.There(out, models)
	if err != nil {
		return err
	}
	if there && !cmd.Force {
		for i, path := range missing {
			missing[i] = fmt.Sprintf("there is no %s: the model would be loaded with a minimal request", path)
		}
		printWarnings(term.stderr, missing)
		fmt.Fprintf(term.stdout, "%s is there already and used as it is; --force makes it anew\n", out)
		return nil
	}
	if err := atomicfile.CheckFolder(out); err != nil { // before anything is downloaded
		return invalidf("%w", err)
	}
	line := newStatusLine(term.stderr)
	defer line.clear()
	source, name, err := cmd.source(term.environ, line)
	if err != nil {
		return err
	}
	distinct, warnings, err := requests.Generate(ctx, out, models, source, requests.Config{
		NumRequests: cmd.NumRequests, MaxCompletionTokens: cmd.MaxCompletionTokens, Seed: cmd.Seed, SystemPrompt: cmd.SystemPrompt,
	})
	printWarnings(term.stderr, warnings)
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted; %s was not written", out)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(term.stdout, "%s: requests for each model: %d, models: %d, different prompts of %s: %d\n", out, cmd.NumRequests, len(models), name, distinct)
	return nil
}

// source opens what the prompts come from, and names it.
func (cmd requestsCmd) source(environ []string, line *statusLine) (source requests.Source, name string, err error) {
	if cmd.Revision != "" && (cmd.Prompts != "" || cmd.Data != "") {
		return nil, "", invalidf("--revision is one of the hub's data set: want either it, or --data or --prompts")
	}
	if cmd.Prompts != "" {
		if cmd.Dataset != "" || cmd.Data != "" {
			return nil, "", invalidf("--prompts takes the place of a data set: want either it, or --dataset and --data")
		}
		source, err = requests.OpenFile(cmd.Prompts, cmd.Column)
		return source, excerpt.Printable(cmd.Prompts, maxQuoted), err
	}
	sets := requests.Datasets()
	i := 0
	if cmd.Dataset != "" {
		i = slices.IndexFunc(sets, func(d requests.Dataset) bool { return d.Name == cmd.Dataset })
	}
	if i < 0 {
		var names []string
		for _, d := range sets {
			names = append(names, d.Name)
		}
		return nil, "", invalidf("--dataset %s: unknown, want %s", excerpt.Quote(cmd.Dataset, maxQuoted), strings.Join(names, " or "))
	}
	if cmd.Data == "" {
		return hubPrompts{sets[i], cmd.Revision, environ, line}, sets[i].Name, nil
	}
	source, err = sets[i].Open(cmd.Data)
	return source, sets[i].Name, err
}

// models returns whom requests are made for, and the directory that the config has for
// them.
func (cmd requestsCmd) models(ctx context.Context, term terminal) (models []requests.Model, dir string, err error) {
	if cmd.Config != "" {
		file, err := readConfig(ctx, term, cmd.Config)
		if err != nil {
			return nil, "", err
		}
		if models, dir, err = modelsOfConfig(file, term.environ); err != nil {
			return nil, "", err
		}
	}
	find := func(label string) *requests.Model {
		if i := slices.IndexFunc(models, func(m requests.Model) bool { return m.Label == label }); i >= 0 {
			return &models[i]
		}
		return nil
	}
	for _, flag := range cmd.Model {
		label, id, ok := strings.Cut(flag, "=")
		if !ok || label == "" || id == "" {
			return nil, "", invalidf("--model %s: want LABEL=MODEL_ID, such as Llama-3.1-8B=meta-llama/Llama-3.1-8B-Instruct", excerpt.Quote(flag, maxQuoted))
		}
		if m := find(label); m != nil {
			m.ID = id
			continue
		}
		models = append(models, requests.Model{Label: label, ID: id})
	}
	for _, flag := range cmd.ExtraBody {
		label, text, ok := strings.Cut(flag, "=")
		m := find(label)
		if !ok || m == nil {
			return nil, "", invalidf("--extra-body %s: want LABEL=JSON with the label of a model", excerpt.Quote(flag, maxQuoted))
		}
		value, err := pyjson.Decode([]byte(text))
		if err != nil {
			return nil, "", invalidf("--extra-body %s: %w", excerpt.Quote(flag, maxQuoted), err)
		}
		if m.ExtraBody, ok = value.(pyjson.Object); !ok {
			return nil, "", invalidf("--extra-body %s: want a JSON object", excerpt.Quote(flag, maxQuoted))
		}
	}
	if len(models) == 0 {
		return nil, "", invalidf("whom to ask is missing: --config FILE, or --model LABEL=MODEL_ID")
	}
	for i, m := range models {
		if err := requests.CheckLabel(m.Label); err != nil {
			return nil, "", err
		}
		if m.ID == "" {
			return nil, "", invalidf("%s: models[%d].model_id: is missing; a request names its model (--model %s=MODEL_ID gives it, too)", config.DisplayName(cmd.Config), i, m.Label)
		}
	}
	return models, dir, nil
}

func modelsOfConfig(file *config.File, environ []string) (models []requests.Model, dir string, err error) {
	c, err := file.Load(environ, config.ForAnything)
	if err != nil {
		return nil, "", err
	}
	order, err := file.KeyOrder()
	if err != nil {
		return nil, "", err
	}
	for i, m := range c.Models {
		model := requests.Model{Label: m.ModelLabel, ID: m.ModelID}
		if m.Live != nil {
			body, path := extraBody(m.Live)
			model.ExtraBody, _ = ordered(body, order, append([]string{"models", strconv.Itoa(i), "live"}, path...)).(pyjson.Object)
		}
		models = append(models, model)
	}
	return models, c.Live.RequestsDir, nil
}

// extraBody is the extra body that all servers of a model have, and its path below the
// model's live. If they have several, the requests have none: whoever sends them adds
// each server's own.
func extraBody(live *config.LiveModel) (body map[string]any, path []string) {
	for i, s := range live.AllServers() {
		if i > 0 && !reflect.DeepEqual(s.RequestExtraBody, body) {
			return nil, nil
		}
		if i == 0 {
			body = s.RequestExtraBody
		}
	}
	path = []string{"request_extra_body"}
	if len(live.Servers) > 0 && live.Servers[0].RequestExtraBody != nil {
		path = []string{"servers", "0", "request_extra_body"}
	}
	return body, path
}

// ordered gives the maps in a value of the config the order of the file.
func ordered(value any, order config.KeyOrder, path []string) any {
	switch v := value.(type) {
	case map[string]any:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		order.Sort(names, path...)
		object := pyjson.Object{}
		for _, name := range names {
			object = append(object, pyjson.Member{Name: name, Value: ordered(v[name], order, append(slices.Clip(path), name))})
		}
		return object
	case []any:
		list := make([]any, len(v))
		for i, element := range v {
			list[i] = ordered(element, order, append(slices.Clip(path), strconv.Itoa(i)))
		}
		return list
	default:
		return value
	}
}
