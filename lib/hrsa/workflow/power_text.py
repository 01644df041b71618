"""What `hrsa power` prints of a pair: the chance to prove a margin, by seeds and queries, and what it costs."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd

from hrsa.report.prose.verdict import power_advice
from hrsa.study.profile import Pair, Profile
from hrsa.verdict import paired_scores
from hrsa.verdict.power import CAUTION, measure, power_table
from hrsa.workflow.plan import assumed_machine, backbone_costs


def estimated_hours(profile: Profile, tera_flops: float) -> float:
    """GPU-hours to train both arms of a profile's most expensive pair with one seed, as `hrsa plan` estimates them."""
    one = profile.model_copy(update={"seeds": profile.seeds[:1], "ablations": ()})
    hours = backbone_costs(one, assumed_machine(one, tera_flops, gpus=1)).set_index("backbone")["hours"]
    return max(hours[pair.a] + hours[pair.b] for pair in profile.pairs)


def power_of(study: Profile, pair: Pair, per_query: pd.DataFrame, margin: float, tasks: int | None,
              sizes: tuple[list[int], list[int]], hours: float | None) -> str:
    """The plan of one pair as text, from the seeds that both arms were scored with."""
    seeds = paired_scores.seeds_of(per_query, pair.a, pair.b)
    if len(seeds) < 2:
        raise ValueError(f"expected scores of both arms of {pair.name} with two seeds or more, got seeds {seeds}: "
                         "the variation between training runs cannot be seen; run more seeds, or name evidence files")
    a, b, of_task = paired_scores.paired(per_query, pair.a, pair.b, seeds)
    n_tasks = tasks or len(set(of_task))
    found, cautious = measure(a, b, of_task), measure(a, b, of_task, CAUTION)
    tables = [power_table(v, margin, *sizes, n_tasks, hours, study.verdict.alpha) for v in (found, cautious)]
    sd = ", ".join(f"{name} {np.sqrt(value):.4f}" for name, value in asdict(found).items())
    text = tables[0].assign(cautious=tables[1]["power"]).to_string(index=False, float_format="{:.4g}".format)
    return (f"{pair.name}: margin {margin:g}, {n_tasks} tasks; from seeds {seeds}, {len(set(of_task))} tasks, "
            f"{len(of_task)} queries; standard deviations: {sd}\n{text}\n{power_advice(tables[0], margin)}\nIf runs "
            f"vary as much as {len(seeds)} seeds leave possible ({CAUTION:.0%} upper limit, column cautious): "
            f"{power_advice(tables[1], margin)}\n\n")
