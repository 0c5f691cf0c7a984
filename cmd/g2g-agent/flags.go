package main

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/g2g-agent/g2g-agent/internal/decimal"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// maxQuoted bounds what a message repeats of a flag, in bytes.
const maxQuoted = 100

// underscoresToDashes spells flags as they are defined, so that OpenG2G's names
// work too: --duration_s is --duration-s.
func underscoresToDashes(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		if arg == "--" {
			copy(out[i:], args[i:])
			break
		}
		if strings.HasPrefix(arg, "--") {
			name, value, hasValue := strings.Cut(arg, "=")
			arg = strings.ReplaceAll(name, "_", "-")
			if hasValue {
				arg += "=" + value
			}
		}
		out[i] = arg
	}
	return out
}

// decimalNumbers makes the parser take numbers that everybody takes for the same:
// kong itself reads 010 as eight.
func decimalNumbers() []kong.Option {
	mapper := func(kind string, bits int, set func(target reflect.Value, text string, bits int) error) kong.MapperFunc {
		return func(ctx *kong.DecodeContext, target reflect.Value) error {
			var text string
			if err := ctx.Scan.PopValueInto("number", &text); err != nil {
				return err
			}
			shown := excerpt.Quote(text, maxQuoted)
			if written := decimal.Of(text); !decimal.Plain(text) && written != "" {
				return fmt.Errorf("%s could be read in two ways; want it in decimal digits: %s", shown, written)
			}
			if err := set(target, text, bits); err != nil {
				return fmt.Errorf("want %s, got %s", kind, shown)
			}
			return nil
		}
	}
	whole := func(target reflect.Value, text string, bits int) error {
		n, err := strconv.ParseInt(wholeDigits(text), 10, bits)
		target.SetInt(n)
		return err
	}
	natural := func(target reflect.Value, text string, bits int) error {
		n, err := strconv.ParseUint(wholeDigits(text), 10, bits)
		target.SetUint(n)
		return err
	}
	float := func(target reflect.Value, text string, bits int) error {
		f, err := strconv.ParseFloat(text, bits)
		if err == nil && !decimal.Plain(text) && f-f == 0 {
			return strconv.ErrSyntax // such as 0x1p4; whoever has the flag judges inf and nan
		}
		target.SetFloat(f)
		return err
	}
	return []kong.Option{
		kong.KindMapper(reflect.Int, mapper("a whole number", strconv.IntSize, whole)),
		kong.KindMapper(reflect.Uint64, mapper("a whole number >= 0", 64, natural)),
		kong.KindMapper(reflect.Float64, mapper("a number", 64, float)),
	}
}

// wholeDigits spells a whole number with digits alone, as 1e3 and +5 are spelled in
// configs too; what is none stays as it is.
func wholeDigits(text string) string {
	const exact = 1 << 53
	if f, err := strconv.ParseFloat(text, 64); decimal.Plain(text) && err == nil && f == math.Trunc(f) && math.Abs(f) < exact {
		return strconv.FormatInt(int64(f), 10)
	}
	return strings.TrimPrefix(text, "+")
}
