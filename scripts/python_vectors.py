"""Writes testdata/python/: what Python itself computes, for the parts of this project that must do the same to the last
bit. Usage: python3 scripts/python_vectors.py (Python 3.11; only the standard library)."""

import json
import pathlib
import random
import struct
import sys

OUT = pathlib.Path(__file__).parent.parent / "testdata" / "python"


def draws(seed):
    """A seed's first draws of each kind. Seeds are written as text: they have more bits than a double."""
    def fresh(method):
        return method(random.Random(seed))

    def shuffles(r):
        out = []
        for n in (1, 2, 4, 9, 33):
            s = list(range(n))
            r.shuffle(s)
            out.append(s)
        return out

    return {
        "seed": str(seed),
        # Past 624 draws the state is twisted anew.
        "getrandbits32_700th_on": fresh(lambda r: [r.getrandbits(32) for _ in range(706)][700:]),
        "getrandbits": fresh(lambda r: [str(r.getrandbits(k)) for k in (1, 7, 31, 32, 33, 48, 63, 64)]),
        "choice": fresh(lambda r: [r.choice(range(n)) for n in (1, 2, 3, 5, 8, 10, 64, 65, 1000, 2**31 - 1, 2**32, 2**32 + 1, 2**53) for _ in range(3)]),
        "shuffles": fresh(shuffles),
    }


def doubles():
    r = random.Random(1)
    special = [0.0, -0.0, 1.0, -1.5, 0.1, 0.25, 1e-4, 9.999e-5, 1e-5, 123456789.125, 1e15, 1e16, 9999999999999998.0, 1e17, 1.5e300, 5e-324,
               1.7976931348623157e308, 2.0**53, 1 / 3, 100.0, 1e22, 123456789012345680.0]
    bits = [struct.unpack("<d", struct.pack("<Q", r.getrandbits(64)))[0] for _ in range(60)]
    return [f for f in special + [b for b in bits if b == b] + [r.uniform(-1e3, 1e3) for _ in range(40)]]


def texts():
    return ["", "plain", "\"\\/\b\f\n\r\t", "\x00\x1f\x7f\x80\xa0", "\u2028\u2029\ufeff", "\U0001f600 \U0010ffff \U00010000", "ü€é", "<b>&amp;</b>"]


def main():
    OUT.mkdir(exist_ok=True)
    seeds = [0, 1, 7, 42, 2**31, 2**32 - 1, 2**32, 2**40 + 3, 2**63, 2**64 - 1, -1, -7, -(2**40)]
    (OUT / "random.json").write_text(json.dumps([draws(s) for s in seeds]) + "\n")
    spaces = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000 and chr(c).strip() == ""]
    (OUT / "json.json").write_text(json.dumps({
        "doubles": [[str(struct.unpack("<Q", struct.pack("<d", f))[0]), json.dumps(f)] for f in doubles()],
        "texts": [[t, json.dumps(t)] for t in texts()],
        "white_space": spaces,
    }) + "\n")


main()
