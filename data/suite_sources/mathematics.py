"""Mathematics: competition problems (CHAMP), formal theorems (Metamath) and worked word problems (reasoning-gym)."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache

import pandas as pd

from suite_sources.fetch import Sources
from suite_sources.pieces import Card, Evaluation, clip, norm, retrieval, shuffled, words

EASY_STEPS, MODERATE_STEPS = 3, 5  # at most, at least: worked word problems between the two are left out
PER_DIFFICULTY = 450
CREDITS = r"\((?:Contributed|Revised|Proof|Moved|New usage|Proposed|Restated|Formerly|Previous|Modified)"


@cache
def _champ(sources: Sources) -> dict:
    file = sources.wheel("champ-dataset") / "champ_dataset" / "dataset_files" / "v0.json"
    return json.loads(file.read_text(encoding="utf8"))


def _solution(problem: dict) -> str:
    steps = " ".join(step["_text"] for step in problem["solution"]["steps"])
    return norm(f"Problem: {problem['_text']} Solution: {steps}")


def champ_concepts(sources: Sources) -> Evaluation:
    """Problems against the concepts and hints that their annotators attached to them."""
    data = _champ(sources)
    corpus = {k: norm(f"{c['name'] + ': ' if c['name'] else ''}{c['_text']}") for k, c in data["concepts"].items()}
    corpus |= {k: norm(h["_text"]) for k, h in data["hints"].items()}
    qrels = {k: {c: 1 for c in p["ch_list"] if c in corpus} for k, p in data["problems"].items()}
    qrels = {k: row for k, row in qrels.items() if row}
    queries = {k: norm(data["problems"][k]["_text"]) for k in qrels}
    card = Card(("champ-dataset",), "MIT", "Problems are queries; all annotated concepts and problem-specific hints "
                "are passages; those annotated for a problem are relevant.",
                "Hints may name objects of their problem, which makes them easier to find than concepts; some texts "
                "state nearly the same concept.")
    return Evaluation("ChampConceptRetrieval", "retrieval", "ndcg_at_10", "Given a competition mathematics problem, "
                      "retrieve the concepts and hints that help solve it.", card,
                      retrieval(corpus, queries, qrels), reasoning=True)


def champ_solutions(sources: Sources) -> Evaluation:
    """Problems against the solved problems that share annotated concepts; the grade is how many they share."""
    problems = _champ(sources)["problems"]
    corpus = {k: clip(f"{_solution(p)} Answer: {p['_answer'] or ''}".strip(), 300) for k, p in problems.items()}
    concepts = {k: {c for c in p["ch_list"] if c.startswith("C_")} for k, p in problems.items()}
    qrels = {k: {j: len(concepts[k] & concepts[j]) for j in problems if j != k and concepts[k] & concepts[j]}
             for k in problems}
    qrels = {k: row for k, row in qrels.items() if row}
    card = Card(("champ-dataset",), "MIT", "Problems are queries; problems with their solutions are passages; those "
                "that share at least one annotated concept are relevant, graded by how many.",
                "The query's own solution is in the corpus under the query's id and has to be ignored. Common "
                "concepts make many problems relevant to each other. The solutions also serve as probe texts.")
    return Evaluation("ChampSolutionRetrieval", "retrieval", "ndcg_at_10", "Given a mathematics problem, retrieve "
                      "solved problems whose solution uses the same theorem or technique.", card,
                      retrieval(corpus, {k: norm(problems[k]["_text"]) for k in qrels}, qrels),
                      reasoning=True, ignore_identical_ids=True)


def _comment(text: str) -> str:
    """What a Metamath comment says, without credits, references and mark-up."""
    text = re.sub(CREDITS + r"[^()]*(?:\([^()]*\)[^()]*)*\)", "", norm(text))
    text = re.sub(r"` (.*?) `", r"\1", text)
    text = re.sub(r"~ (\S+)", "", text)
    text = re.sub(r"\[\S+\](?: p\. [\d\-]+)?", "", text)
    return norm(re.sub(r"<[^>]+>|_", "", text))


def _theorems(source: str) -> dict[str, dict]:
    """Label -> comment, statement, labels its proof uses, and whether it has a proof, in the file's order."""
    found = {}
    hypotheses = r"\s*(?:\$\{\s*)?(?:\$[dev] [^$]*\$\.\s*|\S+ \$e [^$]*\$\.\s*)*"
    assertion = re.compile(hypotheses + r"(\S+) \$([pa]) (.*?)\$([=.])(.*)", re.S)
    for piece in source.split("$(")[1:]:
        comment, _, rest = piece.partition("$)")
        match = assertion.match(rest)
        if match:
            label, kind, statement, _, proof = match.groups()
            used = re.match(r"\s*\((.*?)\)", proof, re.S) if kind == "p" else None
            found[label] = {"comment": _comment(comment), "statement": clip(norm(statement), 60),
                            "uses": used.group(1).split() if used else [], "proved": kind == "p"}
    return found


def metamath(sources: Sources, n_queries: int = 400, n_corpus: int = 5000) -> Evaluation:
    """Theorems in words against earlier theorems and definitions; those its proof uses are relevant."""
    file = sources.debian("metamath-databases") / "usr/share/metamath/databases/set.mm"
    theorems = _theorems(file.read_text(encoding="utf8"))
    minor = r"Lemma|Obsolete|Alternate|Duplicate|Auxiliary|Part of|Technical"
    good = [k for k, t in theorems.items() if 10 <= words(t["comment"]) <= 120
            and not re.match(minor, t["comment"]) and "OLD" not in k and "ALT" not in k]
    passages = set(good)
    frequency = Counter(x for t in theorems.values() for x in set(t["uses"]))
    late = set(list(theorems)[int(0.35 * len(theorems)):])
    uses = {k: [x for x in dict.fromkeys(theorems[k]["uses"]) if x in passages and frequency[x] <= 25]
            for k in good if k in late and theorems[k]["proved"]}
    chosen = shuffled([k for k, used in uses.items() if 2 <= len(used) <= 15], "metamath")[:n_queries]
    needed = {x for k in chosen for x in uses[k]}
    others = shuffled([k for k in good if k not in needed and k not in chosen], "corpus")[: n_corpus - len(needed)]
    corpus = {k: f"{theorems[k]['comment']} {theorems[k]['statement']}" for k in sorted(needed) + others}
    card = Card(("metamath-databases",), "CC0 1.0", "The comment of a theorem in the later two thirds of set.mm is "
                "the query; passages are comments with formal statements; the ones its proof cites, but for those "
                "cited everywhere, are relevant.",
                "A proof cites what its author chose; other theorems might have served. Theorems cited more than "
                "25 times are never relevant.")
    return Evaluation("MetamathPremiseRetrieval", "retrieval", "ndcg_at_10", "Given a theorem, retrieve the earlier "
                      "theorems and definitions its proof relies on.", card,
                      retrieval(corpus, {f"q-{k}": theorems[k]["comment"] for k in chosen},
                                {f"q-{k}": dict.fromkeys(uses[k], 1) for k in chosen}), reasoning=True)


def _word_topic(question: str) -> str:
    """What a word problem asks for: money, time, or a number of things."""
    asked = question.split("?")[-2 if "?" in question else 0].split(".")[-1].lower()
    if re.search(r"[$€£]|\b(cost|money|pay|paid|earn|spend|spent|price|profit|dollars?|cents?|change)\b", asked):
        return "money"
    if re.search(r"\b(minutes?|hours?|days?|weeks?|months?|years?|old|long|time|age)\b", asked):
        return "time"
    return "number"


def probe(sources: Sources) -> pd.DataFrame:
    """Worked solutions [id, set, difficulty, text, topic, target]: the target is the number of steps."""
    import reasoning_gym

    sources.installed("reasoning_gym")
    rows, seen = [], set()
    for number, item in enumerate(reasoning_gym.create_dataset("gsm_symbolic", size=3000, seed=7)):
        question = item["question"].replace(" Give the result as your final answer. Do not include units.", "")
        steps = [norm(x) for x in item["metadata"]["answer_cot"].split("\n") if x.strip() and x[:4] != "####"]
        text = norm(f"Problem: {question} Solution: {' '.join(steps)}")
        difficulty = "easy" if len(steps) <= EASY_STEPS else "moderate" if len(steps) >= MODERATE_STEPS else None
        if difficulty and text not in seen:
            seen.add(text)
            rows.append((f"gsm-{number:04d}", "maths", difficulty, text, _word_topic(question), float(len(steps))))
    kept = [row for d in ("easy", "moderate")
            for row in shuffled([r for r in rows if r[2] == d], "gsm")[:PER_DIFFICULTY]]
    for name, problem in _champ(sources)["problems"].items():
        steps = len(problem["solution"]["steps"])
        kept.append((f"champ-{name}", "maths", "hard", clip(_solution(problem), 300), problem["category"],
                     float(steps)))
    return pd.DataFrame(kept, columns=["id", "set", "difficulty", "text", "topic", "target"])
