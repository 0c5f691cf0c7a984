// Package decimal has the rule of which numbers are taken: those that every reader
// takes for the same. 010 is eight to some and ten to others.
package decimal

import (
	"math/big"
	"strings"
)

// maxDigits bounds the numbers that [Of] spells.
const maxDigits = 100

// Plain reports whether a number is one that everybody takes for the same: decimal,
// without zeros before it or anything between its digits.
func Plain(text string) bool {
	digits := strings.TrimLeft(text, "+-")
	if len(text)-len(digits) > 1 {
		return false
	}
	switch strings.ToLower(digits) {
	case ".inf", ".nan":
		return true
	}
	mantissa, exponent, hasExponent := strings.Cut(strings.ToLower(digits), "e")
	if hasExponent {
		unsigned := strings.TrimLeft(exponent, "+-")
		if len(exponent)-len(unsigned) > 1 || !allDigits(unsigned) {
			return false
		}
	}
	whole, fraction, hasPoint := strings.Cut(mantissa, ".")
	if whole == "" {
		return hasPoint && allDigits(fraction)
	}
	return allDigits(whole) && (whole == "0" || whole[0] != '0') && (fraction == "" || allDigits(fraction))
}

func allDigits(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

// Of spells a number with decimal digits alone, as YAML 1.2 would take it: without the
// zeros before it, and without a base or anything between its digits. It is empty for
// what is no number, or a very long one.
func Of(text string) string {
	digits := strings.ReplaceAll(text, "_", "")
	sign := ""
	if strings.HasPrefix(digits, "-") || strings.HasPrefix(digits, "+") {
		sign, digits = strings.TrimPrefix(digits[:1], "+"), digits[1:]
	}
	if digits == "" || len(digits) > maxDigits {
		return ""
	}
	if len(digits) > 1 && digits[0] == '0' && strings.ContainsRune("xXoObB", rune(digits[1])) {
		whole, ok := new(big.Int).SetString(digits, 0)
		if !ok {
			return ""
		}
		return sign + whole.String()
	}
	digits = strings.TrimLeft(digits, "0")
	if digits == "" || digits[0] < '0' || digits[0] > '9' {
		digits = "0" + digits
	}
	if !Plain(digits) {
		return ""
	}
	return sign + digits
}
