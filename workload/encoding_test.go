package workload

import (
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/textfile"
)

// layouts are directories of both layouts that load.
func layouts() map[string]func() map[string]string {
	return map[string]func() map[string]string{"0.1": v01, "0.2": v02}
}

// TestByteOrderMarksDoNoHarm: every file of either layout may have one.
func TestByteOrderMarksDoNoHarm(t *testing.T) {
	for layout, files := range layouts() {
		for name, text := range with(files(), manifestFile, `{"openg2g_version": "`+layout+`.0"}`) {
			dir := folder(t, with(with(files(), manifestFile, `{"openg2g_version": "`+layout+`.0"}`), name, "\xef\xbb\xbf"+text))
			if _, err := LoadInferenceData(dir, []DataQuery{query()}, true); err != nil {
				t.Errorf("layout %s, %s with a mark: %v", layout, name, err)
			}
		}
	}
	dir := folder(t, map[string]string{"t.csv": "\xef\xbb\xbft_s,power_W\n0,1\n1,2\n"})
	if _, err := LoadTrainingTrace(dir + "/t.csv"); err != nil {
		t.Error(err)
	}
}

// utf16LE is what Windows PowerShell writes with >.
func utf16LE(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		b.Write([]byte{c, 0})
	}
	return b.String()
}

// TestOtherEncodingsAreRefusedInWords: whatever is in a file, its message is short and
// can be printed.
func TestOtherEncodingsAreRefusedInWords(t *testing.T) {
	changes := map[string]func(string) string{
		"UTF-16":                 func(s string) string { return "\xff\xfe" + utf16LE(s) },
		"UTF-16 without a mark":  utf16LE,
		"CR alone":               func(s string) string { return strings.ReplaceAll(s+strings.Repeat("9,300\n", 5000), "\n", "\r") },
		"control characters":     func(s string) string { return "\x1b[2J\x00\a" + s },
		"a field without an end": func(s string) string { return strings.Repeat("\x1b", 60_000) + s },
		"semicolons":             func(s string) string { return strings.ReplaceAll(s, ",", ";") },
		"a line for Excel":       func(s string) string { return "sep=,\n" + s },
	}
	for layout, files := range layouts() {
		for name, text := range files() {
			for change, make := range changes {
				if strings.HasSuffix(name, ".json") && change == "CR alone" {
					continue // a line end is a space like others there
				}
				dir := folder(t, with(files(), name, make(text)))
				_, err := LoadInferenceData(dir, []DataQuery{query()}, true)
				if !errors.Is(err, datacenter.ErrInvalidInput) {
					t.Errorf("layout %s, %s with %s: %v", layout, name, change, err)
					continue
				}
				message := strings.ReplaceAll(err.Error(), dir, "")
				if len(message) > 700 || strings.ContainsFunc(message, unicode.IsControl) {
					t.Errorf("layout %s, %s with %s: the message of %d bytes is %.300q", layout, name, change, len(message), message)
				}
				if strings.HasPrefix(change, "UTF-16") != errors.Is(err, textfile.ErrUTF16) {
					t.Errorf("layout %s, %s with %s: %s", layout, name, change, message)
				}
			}
		}
	}
}

// TestHeadersThatAreNone says what is wrong with a first line, and what would be right.
func TestHeadersThatAreNone(t *testing.T) {
	for header, want := range map[string]string{
		"sep=,":        `column "t_s" is missing; the line "sep=," is for spreadsheets alone; take it out`,
		"sep=;":        `column "t_s" is missing; the line "sep=;" is for spreadsheets alone; take it out`,
		"t_s;power_W":  `column "t_s" is missing; want commas between the columns, which are t_s;power_W`,
		"t_s\tpower_W": `column "t_s" is missing; want commas between the columns, which are t_s\tpower_W`,
		"t,power_W":    `column "t_s" is missing; the columns are t, power_W`,
	} {
		err := readTableFrom(strings.NewReader(header+"\n0,1\n"), "f", []string{"t_s", "power_W"}, func(*table) error { return nil })
		if err == nil || err.Error() != "f:1: "+want {
			t.Errorf("%q: the error is %v, want %s", header, err, want)
		}
	}
	cr := "t_s,power_W\r0,1\r" + strings.Repeat("1,2\r", 10_000)
	err := readTableFrom(strings.NewReader(cr), "f", []string{"t_s", "power_W"}, func(*table) error { return nil })
	if want := `f:1: column "power_W" is missing; the lines end with CR alone; want LF, or CR LF`; err == nil || err.Error() != want {
		t.Errorf("CR alone: %.300v, want %s", err, want)
	}
}
