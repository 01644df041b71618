"""Error rates of the verdict by simulation, with the usual practice beside it. Prints one table.

    python benchmarks/verdict.py [--repeats 1000] [--write]

Each scenario draws studies whose differences have known seed, task, query and residual variation; the true mean
difference is the margin (a claim of equivalence is an error) or zero (it is right). Two scenarios (`limit`) break what
the rule assumes, to show what then happens. Methods:

- `verdict`: `hrsa.verdict.equivalence.verdict`; `planned` is what `hrsa.verdict.power` foretells for the power at zero.
- `no gate`: the same without baselines, in the scenarios that have some.
- `p > .05`: no significant difference of seed means (paired t) is read as "the same".
- `within std`: the mean difference is smaller than its standard deviation over seeds.
- `pooled queries`: two one-sided t tests on all seed x query differences as if independent.
- `naive bootstrap`: 90% percentile interval with seeds and queries resampled as they are, inside the margin.

Scenarios with baselines (GATED) draw the scores of two embedders of equal truth, of their untrained backbones and of
chance. On a `floor` no claim of sameness is right: what is wanted is `uninformative`. Where both arms are `competent`
the power beside that of `no gate` is what the gate costs.

`--write` stores the table as data/results/verdict_simulation.parquet with its provenance.
"""

import argparse
import time

import numpy as np
import pandas as pd
from scipy import stats

from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.verdict.competence import Baselines
from hrsa.verdict.equivalence import verdict
from hrsa.verdict.power import Variances, power_at

MARGIN, ALPHA, RESAMPLES = 0.02, 0.05, 1000
RESULT = store.ROOT / "data" / "results" / "verdict_simulation.parquet"
SCENARIOS = {  # seeds, tasks, queries per task (or of each), standard deviations: seed, task, seed x task, query,
    # residual; all are normal, but query differences in "heavy tails" (t with 3 degrees of freedom) and in MOVING
    "seeds differ": (3, 1, 300, (0.008, 0, 0, 0.02, 0.02)),
    "seeds differ much": (3, 1, 300, (0.015, 0, 0, 0.02, 0.02)),
    "queries differ": (3, 1, 300, (0.001, 0, 0, 0.12, 0.04)),
    "seeds and queries": (3, 1, 300, (0.004, 0, 0, 0.08, 0.08)),
    "noise only": (3, 1, 300, (0, 0, 0, 0, 0.12)),
    "heavy tails": (3, 1, 300, (0.003, 0, 0, 0.05, 0.05)),
    "four tasks differ": (3, 4, 75, (0.003, 0.008, 0.003, 0.04, 0.04)),
    "eight tasks differ": (3, 8, 40, (0.003, 0.010, 0.003, 0.04, 0.04)),
    "eight tasks alike": (3, 8, 40, (0.003, 0, 0, 0.04, 0.04)),
    "five seeds": (5, 4, 75, (0.006, 0.005, 0, 0.04, 0.06)),
    "two tasks differ": (5, 2, 150, (0.002, 0.005, 0, 0.03, 0.03)),
    "tasks of unequal size": (3, 5, (10, 30, 60, 100, 300), (0.002, 0.004, 0.002, 0.03, 0.03)),
    "two seeds": (2, 1, 300, (0.002, 0, 0, 0.05, 0.04)),
    "few queries move": (3, 1, 300, (0.001, 0, 0, 0.10, 0.02)),
    "hardly a query moves": (3, 1, 60, (0.001, 0, 0, 0.05, 0.02)),
    "clusters not named": (3, 10, 30, (0.002, 0.015, 0, 0.03, 0.03)),
}
GATED = {  # seeds, tasks, queries per task; level of the untrained backbones, chance; gain by training on the tasks
    # that learn, their share; standard deviations that both arms share (seed, query) and of each arm (seed, query,
    # residual)
    "floor: no gain": (3, 8, 40, 0.5, 0.4, 0.0, 1, (0.005, 0.05), (0.005, 0.03, 0.05)),
    "floor: at chance": (3, 8, 40, 0.4, 0.4, 0.0, 1, (0.005, 0.05), (0.005, 0.03, 0.05)),
    "floor: training harms": (3, 8, 40, 0.5, 0.4, -0.03, 1, (0.005, 0.05), (0.005, 0.03, 0.05)),
    "floor: arms respond alike": (3, 4, 75, 0.5, 0.4, 0.0, 1, (0.01, 0.15), (0.001, 0.01, 0.01)),
    "floor: one task": (3, 1, 300, 0.5, 0.4, 0.0, 1, (0.005, 0.05), (0.005, 0.03, 0.05)),
    "floor: two seeds": (2, 4, 75, 0.5, 0.4, 0.0, 1, (0.005, 0.05), (0.005, 0.03, 0.05)),
    "floor: two of eight learn": (3, 8, 40, 0.5, 0.4, 0.2, 0.25, (0.005, 0.05), (0.005, 0.03, 0.05)),
    "floor: saturated": (3, 8, 40, 0.7, 0.4, 0.29, 1, (0.0, 0.005), (0.001, 0.005, 0.005)),
    "competent: large gain": (3, 8, 40, 0.5, 0.4, 0.2, 1, (0.005, 0.05), (0.002, 0.01, 0.03)),
    "competent: small gain": (3, 8, 40, 0.5, 0.4, 0.03, 1, (0.005, 0.05), (0.002, 0.01, 0.03)),
    "competent: six of eight learn": (3, 8, 40, 0.5, 0.4, 0.2, 0.75, (0.005, 0.05), (0.002, 0.01, 0.03)),
    "competent: two seeds": (2, 8, 40, 0.5, 0.4, 0.2, 1, (0.005, 0.05), (0.0005, 0.01, 0.03)),
}
MOVING = {"few queries move": 1 / 12, "hardly a query moves": 1 / 20}  # share of queries that differ, all one way
LIMITS = ("hardly a query moves", "clusters not named")  # where the rule's assumptions fail: shown, not warranted


def draw(name, shift, rng):
    """Differences (seeds, queries) and task ids of one study."""
    seeds, tasks, queries, (seed, task, seed_task, query, residual) = SCENARIOS[name]
    of_task = np.repeat(np.arange(tasks), queries)
    cells = task * rng.standard_normal((1, tasks)) + seed_task * rng.standard_normal((seeds, tasks))
    noise = residual * rng.standard_normal((seeds, len(of_task)))
    difference = shift + seed * rng.standard_normal((seeds, 1)) + cells[:, of_task]
    named = of_task if name != "clusters not named" else np.zeros_like(of_task)
    return difference + query * query_effects(name, len(of_task), rng) + noise, named


def query_effects(name, queries, rng):
    """Effects of mean 0 and variance 1, one per query: (1, queries)."""
    if name == "heavy tails":
        return rng.standard_t(3, (1, queries)) / np.sqrt(3)
    if name in MOVING:  # a study that misses some of the movers looks both better and surer
        share = MOVING[name]
        return ((rng.random((1, queries)) < share) - share) / np.sqrt(share * (1 - share))
    return rng.standard_normal((1, queries))


def naive(difference, rng):
    seeds, queries = difference.shape
    by_query = difference[rng.integers(0, seeds, (400, seeds))].mean(axis=1)  # (resamples, queries)
    draws = np.take_along_axis(by_query, rng.integers(0, queries, (400, queries)), axis=1).mean(axis=1)
    low, high = np.quantile(draws, [ALPHA, 1 - ALPHA])
    return low > -MARGIN and high < MARGIN


def draw_gated(name, rng):
    """Scores of both arms (seeds, queries), which differ by nothing but noise, their baselines and task ids."""
    seeds, tasks, queries, level, chance, gain, share, shared, own = GATED[name]
    of_task = np.repeat(np.arange(tasks), queries)
    width = len(of_task)
    normal = rng.standard_normal
    learned = gain * (of_task < round(share * tasks))
    both = level + learned + shared[0] * normal((seeds, 1)) + shared[1] * normal((1, width))
    arms = [both + own[0] * normal((seeds, 1)) + own[1] * normal((1, width)) + own[2] * normal((seeds, width))
            for _ in "ab"]
    untrained = np.full(width, level)
    return *arms, Baselines(untrained, untrained, np.full(width, chance)), of_task


def gated(name, repeats, rng):
    """Rates of each word, of `verdict` and without its gate; and of the other methods' claims of sameness."""
    rates = []
    for repeat in range(repeats):
        a, b, baselines, tasks = draw_gated(name, rng)
        found = verdict(a, b, MARGIN, tasks, ALPHA, repeat, RESAMPLES, baselines).verdict
        others = claims(b - a, tasks, repeat, rng)
        rates.append({"uninformative": found == "uninformative", "different": found in ("different", "negligible"),
                      "same": found in ("equivalent", "negligible"), **others})
    return pd.DataFrame(rates).mean()


def gated_rows(repeats, seed=0):
    """One row per gated scenario and method: false claims of sameness on a floor, power where arms are competent."""
    rows = []
    for number, name in enumerate(GATED):
        seeds, tasks, queries = GATED[name][:3]
        rates = gated(name, repeats, np.random.default_rng([seed, 1, number]))
        floor = name.startswith("floor")
        for method in ("verdict", "no gate", "p > .05", "within std", "pooled queries", "naive bootstrap"):
            own = method == "verdict"
            same = rates["same" if own else "verdict" if method == "no gate" else method]
            rows.append({"scenario": name, "seeds": seeds, "tasks": tasks, "queries": tasks * queries, "method": method,
                         "false_equivalence": same if floor else np.nan, "power_at_zero": np.nan if floor else same,
                         "limit": False, "planned": np.nan,
                         "false_difference": rates["different"] if own else np.nan,
                         "uninformative": rates["uninformative"] if own else np.nan, "repeats": repeats})
    return rows


def claims(difference, tasks, repeat, rng):
    """Which methods call the two arms the same."""
    means, pooled = difference.mean(axis=1), difference.ravel()
    error = pooled.std(ddof=1) / np.sqrt(len(pooled))
    found = verdict(np.zeros_like(difference), difference, MARGIN, tasks, ALPHA, repeat, RESAMPLES)
    return {
        "verdict": found.p_equivalence < ALPHA,
        "p > .05": stats.ttest_1samp(means, 0).pvalue > ALPHA,
        "within std": abs(means.mean()) < means.std(ddof=1),
        "pooled queries": stats.t.sf((MARGIN - abs(pooled.mean())) / error, len(pooled) - 1) < ALPHA,
        "naive bootstrap": naive(difference, rng),
        "difference": found.p_difference < ALPHA,
    }


def simulate(repeats, seed=0):
    """One row per scenario: error rate at the margin and power at zero of every method, and the planned power."""
    rows = []
    for number, name in enumerate(SCENARIOS):
        seeds, tasks, queries, deviations = SCENARIOS[name]
        rng = np.random.default_rng([seed, number])
        rates = {}
        for truth, shift in (("margin", MARGIN), ("zero", 0.0)):
            found = pd.DataFrame([claims(*draw(name, shift, rng), repeat, rng) for repeat in range(repeats)])
            rates[truth] = found.mean()
        sizes = np.broadcast_to(queries, tasks)
        typical = round(len(sizes) / (1 / sizes).sum())  # harmonic mean, as in hrsa.power
        planned = power_at(Variances(*np.square(deviations)), MARGIN, seeds, typical, tasks, repeats=4000)
        rows += [{"scenario": name, "seeds": seeds, "tasks": tasks, "queries": int(sizes.sum()),
                  "method": method, "false_equivalence": rates["margin"][method],
                  "power_at_zero": rates["zero"][method], "limit": name in LIMITS,
                  "planned": planned if method == "verdict" and name not in LIMITS else np.nan,
                  "false_difference": rates["zero"]["difference"] if method == "verdict" else np.nan,
                  "uninformative": np.nan, "repeats": repeats}
                 for method in rates["margin"].index if method != "difference"]
    return pd.DataFrame(rows + gated_rows(max(repeats // 2, 1), seed))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    start = time.monotonic()
    table = simulate(chosen.repeats)
    rates = ["false_equivalence", "power_at_zero"]
    wide = table.pivot_table(index="scenario", columns="method", values=rates, sort=False)
    print(wide.round(3).to_string())
    own = table[table["method"] == "verdict"].drop(columns="method")
    print(own.round(3).to_string(index=False))
    if chosen.write:
        store.write_table(RESULT, table)
        settings = {"margin": MARGIN, "alpha": ALPHA, "resamples": RESAMPLES, "repeats": chosen.repeats,
                    "scenarios": {name: list(values) for name, values in (SCENARIOS | GATED).items()}}
        store.write_json(RESULT.with_suffix(".json"), store.provenance(
            command=f"python benchmarks/verdict.py --repeats {chosen.repeats} --write", settings=settings,
            sha256=store.file_hash(RESULT), seconds=round(time.monotonic() - start, 1),
            code=code_hash(verdict)))


if __name__ == "__main__":
    main()
