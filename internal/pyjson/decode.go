package pyjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDigits bounds a whole number, as Python does.
const maxDigits = 4300

// Decode reads one JSON value into what [Append] writes, as json.loads does: objects
// keep their order, and of two members of one name the last value counts, in the first
// one's place; numbers without point and exponent are whole ones of any size.
// It fails for what is no text: bytes that are no UTF-8, and halves of pairs of surrogates.
func Decode(raw []byte) (any, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("is not text in UTF-8")
	}
	if HasHalfPair(raw) {
		return nil, ErrHalfPair
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	value, err := decodeValue(decoder)
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the value")
	}
	return value, nil
}

// decodeValue reads a value. The decoder bounds how deep they nest.
func decodeValue(d *json.Decoder) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token := token.(type) {
	case json.Delim:
		if token == '{' {
			return decodeObject(d)
		}
		return decodeList(d)
	case json.Number:
		return number(string(token))
	default:
		return token, nil
	}
}

func decodeObject(d *json.Decoder) (any, error) {
	object := Object{}
	places := map[string]int{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string) // the decoder takes nothing else for a name
		value, err := decodeValue(d)
		if err != nil {
			return nil, err
		}
		if at, twice := places[name]; twice {
			object[at].Value = value
			continue
		}
		places[name] = len(object)
		object = append(object, Member{name, value})
	}
	_, err := d.Token()
	return object, err
}

func decodeList(d *json.Decoder) (any, error) {
	list := []any{}
	for d.More() {
		value, err := decodeValue(d)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	_, err := d.Token()
	return list, err
}

func number(text string) (any, error) {
	if strings.ContainsAny(text, ".eE") {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("a number is beyond what a double holds")
		}
		return f, nil
	}
	if len(text) > maxDigits {
		return nil, fmt.Errorf("a number has more than %d digits", maxDigits)
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, nil
	}
	n, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return nil, errors.New("a number is none")
	}
	return n, nil
}

// ErrHalfPair is what is wrong with JSON of which [HasHalfPair] is true.
var ErrHalfPair = errors.New(`has half of a pair of surrogates, such as \ud83d without \ude00; that is no text`)

// HasHalfPair reports whether JSON has a \u escape that is half of a pair of surrogates,
// and not followed by the other half: decoders put U+FFFD there without a word.
func HasHalfPair(raw []byte) bool {
	const length = len(`\ud83d`)
	unit := func(text []byte) uint64 {
		if len(text) < length || text[0] != '\\' || text[1] != 'u' {
			return 0
		}
		u, err := strconv.ParseUint(string(text[2:length]), 16, 16)
		if err != nil {
			return 0
		}
		return u
	}
	for {
		_, escape, found := bytes.Cut(raw, []byte{'\\'})
		if !found {
			return false
		}
		raw = raw[len(raw)-len(escape)-1:]
		used := 2 // the backslash, and what is escaped, be it another one
		switch u := unit(raw); {
		case u >= 0xdc00 && u < 0xe000:
			return true
		case u >= 0xd800 && u < 0xdc00:
			if second := unit(raw[length:]); second < 0xdc00 || second >= 0xe000 {
				return true
			}
			used = 2 * length
		}
		raw = raw[min(used, len(raw)):]
	}
}
