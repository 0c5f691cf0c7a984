package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestVariablesOfTheClientArePassedOver(t *testing.T) {
	c := parsed(t, oneModel, "G2G_AGENT_BINARY=/opt/g2g-agent", "G2G_AGENT_URL=http://h:1", "G2G_AGENT_TOKEN=secret", "G2G_AGENT_TOKEN_FILE=/t", "G2G_AGENT_SEED=7")
	want := parsed(t, oneModel)
	if want.Seed = 7; !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	for _, variable := range []string{"G2G_AGENT_BINARYS=x", "G2G_AGENT_URL__X=x", "G2G_AGENT_TOKENFILE=x"} {
		if _, problems := parse([]byte(oneModel), []string{variable}, ForAnything, ""); len(problems) != 1 || !strings.Contains(problems[0].Message, "unknown key") {
			t.Errorf("%s: %v, want an unknown key", variable, problems)
		}
	}
	for key := range keysOf(reflect.TypeFor[Config]()) {
		if isClients(strings.ToUpper(key)) {
			t.Errorf("%s is a key, and never set from the environment", key)
		}
	}
}
