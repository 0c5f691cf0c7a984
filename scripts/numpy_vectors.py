"""Write testdata/numpy/*.json: what NumPy computes, for cases the golden vectors leave out.

Usage: python3 -m venv V && V/bin/pip install numpy==2.4.6 && V/bin/python scripts/numpy_vectors.py
"""

import json
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parent.parent / "testdata" / "numpy"


def default_rng():
    """One entry a seed; every field comes from a fresh generator."""
    entries = []
    for seed in (0, 5, 12345, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**53 + 1, 2**63 - 1, 2**64 - 1):
        rng = lambda: np.random.default_rng(seed)
        entries.append(
            {
                "seed": seed,
                "raw": [int(v) for v in rng().bit_generator.random_raw(8)],
                "integers": [
                    {"low": low, "high": high, "values": rng().integers(low, high, size=40).tolist()}
                    for low, high in (
                        (0, 1),
                        (-3, 4),
                        (0, 3001),
                        (0, 2**31 + 11),
                        (0, 2**32 - 1),
                        (0, 2**32),
                        (0, 2**32 + 1),
                        (0, 2**40 + 3),
                        (-(2**62), 2**62 + 5),
                        (-(2**63), 2**63 - 1),
                    )
                ],
                "choice": [
                    {"n": n, "k": k, "values": rng().choice(n, k, replace=False).tolist()}
                    for n, k in ((1, 1), (10, 10), (10000, 300), (10001, 200), (10001, 201), (12000, 2048))
                ],
                "choice_all_of_10001_sum": int((rng().choice(10001, 10001, replace=False) * np.arange(10001)).sum()),
                "poisson": [
                    {"lam": lam, "values": rng().poisson(lam, size=60).tolist()}
                    for lam in (0.0, 0.001, 3.0, 9.999, 10.0, 25.5, 12345.6, 1e9)
                ],
                "normal_5_2": rng().normal(5.0, 2.0, size=50).tolist(),
                "shuffle_then_normal": shuffle_then_normal(rng()),
            }
        )
    return entries


def shuffle_then_normal(rng):
    order = np.arange(7)
    rng.shuffle(order)
    return {"shuffle": order.tolist(), "random": rng.random(), "integers": rng.integers(0, 9, size=3).tolist()}


def kernels():
    rng = np.random.default_rng(20260)
    sums, interps, quantiles = [], [], []
    for n in (0, 1, 2, 7, 8, 9, 15, 16, 127, 128, 129, 130, 136, 137, 200, 255, 256, 257, 1000, 4097):
        x = rng.lognormal(3.0, 2.0, size=n) * rng.choice([-1.0, 1.0], size=n, p=[0.2, 0.8])
        entry = {"x": x.tolist(), "sum": float(np.sum(x))}
        if n:
            entry |= {"mean": float(np.mean(x)), "std": float(np.std(x)), "median": float(np.median(x))}
        sums.append(entry)
    for n in (1, 2, 5, 40):
        xp = np.sort(np.round(rng.uniform(0, 10, size=n), 2))
        if n == 40:
            xp[10] = xp[11]  # a step: two points at one time
        fp = np.round(rng.uniform(-5, 5, size=n), 3)
        x = np.concatenate([rng.uniform(-2, 12, size=60), xp])
        interps.append({"xp": xp.tolist(), "fp": fp.tolist(), "x": x.tolist(), "y": np.interp(x, xp, fp).tolist()})
    for n in (1, 2, 3, 10, 101):
        x = np.sort(rng.normal(size=n))
        q = [0.0, 0.1, 0.35, 0.5, 0.85, 0.99, 1.0]
        quantiles.append({"x": x.tolist(), "q": q, "values": np.quantile(x, q).tolist()})
    return {
        "sums": sums,
        "interp": interps,
        "quantile": quantiles,
        "arange": [
            {"stop": stop, "step": step, "values": np.arange(0.0, stop, step).tolist()}
            for stop, step in ((1.0, 0.1), (0.3, 0.1), (2.0, 0.3), (0.05, 0.1), (7.0, 1 / 3))
        ],
        "linspace": [
            {"start": a, "stop": b, "n": n, "values": np.linspace(a, b, n).tolist()}
            for a, b, n in ((50.0, 225.0, 18), (1.0, 1.0, 3), (3.0, -2.0, 1), (0.0, 1.0, 2), (0.1, 0.7, 7))
        ],
        "box_smooth": [
            {"x": x, "width": w, "values": np.convolve(x, np.ones(w) / w, mode="same").tolist()}
            for x, w in (([1.0, 2, 3, 4, 5, 6, 7], 3), ([1.0, 2, 3, 4, 5, 6, 7], 4), ([2.5, 1.5, 9.0], 3), ([2.5, 1.5], 1))
        ],
    }


OUT.mkdir(parents=True, exist_ok=True)
for name, value in (("default_rng", default_rng()), ("kernels", kernels())):
    (OUT / f"{name}.json").write_text(json.dumps({"numpy": np.__version__, name: value}) + "\n")
