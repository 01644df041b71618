"""WordNet 3.0: three training tasks, a classification task and the general probe texts, on disjoint synsets."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache

import pandas as pd

from suite_sources.fetch import Sources
from suite_sources.pieces import Card, Evaluation, Training, norm, share, shuffled, words

PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
TRAINING_SHARE = 0.75  # of synsets; the rest is for the classification task and the probe texts
PROBED = 110  # probe texts a topic
# Lexicographer files (WordNet manual, lexnames(5WN)) that serve as topic labels, by number in the data files.
TOPICS = {
    "04": "act", "05": "animal", "06": "artifact", "07": "attribute", "08": "body", "09": "cognition",
    "10": "communication", "13": "food", "14": "group", "15": "location", "18": "person", "20": "plant",
    "26": "state", "27": "substance", "28": "time",
}
CARD = {
    "packages": ("wordnet-base",),
    "licence": "WordNet 3.0 licence (permissive; notice kept)",
}


@dataclass(frozen=True)
class Synset:
    """One word sense: its lemmas, definition, quoted examples, topic file and the synset above it."""

    lemmas: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...]
    file: str
    part: str
    above: tuple[str, str] | None

    @property
    def entry(self) -> str:
        """Dictionary entry: up to three lemmas and the definition."""
        return f"{', '.join(self.lemmas[:3])}: {self.gloss}"


@cache
def synsets(sources: Sources) -> dict[tuple[str, str], Synset]:
    """All synsets by (part of speech, offset)."""
    folder = sources.debian("wordnet-base") / "usr" / "share" / "wordnet"
    found = {}
    for letter, part in PARTS.items():
        for line in (folder / f"data.{part}").read_text(encoding="utf8").splitlines():
            if not line.startswith("  "):
                offset, synset = _parse(line, part)
                found[letter, offset] = synset
    return found


def _parse(line: str, part: str) -> tuple[str, Synset]:
    data, gloss = line.split("|", 1)
    fields = data.split()
    n_words = int(fields[3], 16)
    lemmas = [re.sub(r"\(.*\)", "", fields[4 + 2 * i]).replace("_", " ") for i in range(n_words)]
    at = 4 + 2 * n_words
    pointers = [fields[at + 1 + 4 * i : at + 4 + 4 * i] for i in range(int(fields[at]))]
    above = next(((p, offset) for symbol, offset, p in pointers if symbol == "@"), None)
    examples = re.findall(r'"([^"]{15,}?)"', gloss)
    definition = norm(re.split(r';?\s*"', gloss)[0]).strip("; :")
    return fields[0], Synset(tuple(lemmas), definition, tuple(map(norm, examples)), fields[1], part, above)


def in_training(synset: Synset) -> bool:
    """Whether the synset's definition belongs to the training partition; equal definitions fall together."""
    return share(synset.gloss, "wordnet") < TRAINING_SHARE


def training(sources: Sources) -> list[Training]:
    """Define a term, find the sense of a usage example, find the broader category."""
    every = synsets(sources)
    held_out = {example for s in every.values() if not in_training(s) for example in s.examples}
    kept = {k: s for k, s in every.items() if in_training(s)}
    senses = Counter(lemma.lower() for s in every.values() for lemma in set(s.lemmas))
    define, usage, broader = [], [], []
    for synset in kept.values():
        single = [x for x in synset.lemmas if senses[x.lower()] == 1 and not re.search(r"\d", x)]
        if single and words(synset.gloss) >= 4:
            define.append((min(single, key=lambda x: share(x, "lemma")), synset.gloss))
        if synset.examples and words(synset.examples[0]) >= 4 and synset.examples[0] not in held_out:
            usage.append((synset.examples[0], f"{synset.lemmas[0]}: {synset.gloss}"))
        if synset.part == "noun" and synset.above in kept and words(synset.gloss) >= 6:
            broader.append((synset.gloss, kept[synset.above].entry))
    return [
        Training("wn_define", "Given a term, retrieve its dictionary definition.",
                 Card(**CARD, how="A lemma with one sense, and the definition of that sense.",
                      faults="Definitions are short; many terms are Latin names of species."), define),
        Training("wn_usage", "Given a usage example, retrieve the dictionary entry for the word sense it illustrates.",
                 Card(**CARD, how="The first quoted example of a sense, and its first lemma with the definition.",
                      faults="The lemma often occurs in the example, so word overlap helps."), usage),
        Training("wn_hypernym", "Given the description of a thing, retrieve the entry of the broader category it "
                 "belongs to.",
                 Card(**CARD, how="The definition of a noun, and the entry of the synset above it. One description "
                      "is kept for each category.",
                      faults="Other categories further up the hierarchy would be right as well."), broader),
    ]


def _topical(sources: Sources) -> dict[str, list[Synset]]:
    """Held-out nouns of at least eight words by topic, in a fixed random order, each definition once."""
    found, seen = defaultdict(list), set()
    for synset in synsets(sources).values():
        long_enough = words(" ".join((synset.gloss, *synset.examples))) >= 8
        if synset.file in TOPICS and not in_training(synset) and long_enough and synset.gloss not in seen:
            seen.add(synset.gloss)
            found[TOPICS[synset.file]].append(synset)
    return {topic: shuffled(found[topic], "topical", lambda s: s.entry) for topic in TOPICS.values()}


def classification(sources: Sources) -> Evaluation:
    """Name the topic (lexicographer file) of a dictionary entry: 60 entries a topic to learn from, 80 to test."""
    rows = {"train": [], "test": []}
    for topic, found in _topical(sources).items():
        rows["train"] += [(s.entry, topic) for s in found[:60]]
        rows["test"] += [(s.entry, topic) for s in found[60:140]]
    tables = {k: pd.DataFrame(shuffled(v, "rows"), columns=["text", "label"]) for k, v in rows.items()}
    card = Card(**CARD, how="Entries (lemmas and definition) of nouns from 15 lexicographer files. Their synsets are "
                "in no training task and no probe text.", faults="Some definitions fit two topics (act or state).")
    return Evaluation("WordNetTopicClassification", "classification", "accuracy",
                      "Identify the topic of a dictionary entry.", card, tables)


def _spare(sources: Sources) -> dict[str, list[Synset]]:
    """What the classification task leaves of the held-out nouns by topic, the longest first."""
    return {topic: sorted(found[140:], key=lambda s: (-words(" ".join((s.gloss, *s.examples))), s.entry))
            for topic, found in _topical(sources).items()}


def similarity(sources: Sources, pairs: int = 600) -> Evaluation:
    """Graded similarity of definitions: Wu and Palmer's measure (1994) on the noun hierarchy, times five.

    Definitions are too short to share 13 words with a training text. Half of the pairs join a definition with the most
    similar one left, a quarter stay within a topic, a quarter do not.
    """
    every = synsets(sources)
    spare = {topic: found[PROBED:] for topic, found in _spare(sources).items()}  # the probe texts are the longest
    keys = {synset: key for key, synset in every.items()}
    chains = {s: [*_chain(every, s), keys[s]] for found in spare.values() for s in found if 6 <= words(s.gloss) < 13}
    left, rows = shuffled(list(chains), "similarity", lambda s: s.entry), []
    while len(rows) < pairs and len(left) > 1:
        first = left.pop()
        alike, same = len(rows) % 2 == 0, len(rows) % 4 == 1
        there = [s for s in left if not same or s.file == first.file]
        other = max(there, key=lambda s: _wu_palmer(chains[first], chains[s])) if alike else there[0]
        left.remove(other)
        rows.append((first.gloss, other.gloss, round(5 * _wu_palmer(chains[first], chains[other]), 3)))
    card = Card(**CARD, how="Pairs of definitions of nouns that are in no other task and no probe text. The score is "
                "five times Wu and Palmer's similarity of the two senses: twice the depth of the nearest synset above "
                "both, over the sum of their depths.", faults="The hierarchy says it, not people: depth is uneven, and "
                "things used together but of different kinds count as far apart.")
    table = pd.DataFrame(rows, columns=["sentence1", "sentence2", "score"])
    return Evaluation("WordNetSenseSTS", "sts", "cosine_spearman", "Retrieve definitions of things of the same kind.",
                      card, {"test": table})


def _chain(every: dict[tuple[str, str], Synset], synset: Synset) -> list[tuple[str, str]]:
    """Keys of the synsets above, the root first."""
    chain = []
    while synset.above in every:
        chain.append(synset.above)
        synset = every[synset.above]
    return chain[::-1]


def _wu_palmer(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> float:
    """Wu and Palmer's similarity of two synsets from the chains that lead down to them; the root has depth 1."""
    shared = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return 2 * shared / (len(one) + len(other))


def probe(sources: Sources, per_topic: int = PROBED) -> pd.DataFrame:
    """General probe texts [id, set, difficulty, text, topic, target]: the target is the depth below `entity`."""
    every = synsets(sources)
    rows = []
    for topic, longest in _spare(sources).items():
        for synset in longest[:per_topic]:
            text = ". ".join((synset.entry, *synset.examples))
            rows.append((f"wn-{len(rows):04d}", "general", "none", text, topic, float(_depth(every, synset))))
    return pd.DataFrame(rows, columns=["id", "set", "difficulty", "text", "topic", "target"])


def _depth(every: dict[tuple[str, str], Synset], synset: Synset) -> int:
    depth = 0
    while synset.above in every:
        synset, depth = every[synset.above], depth + 1
    return depth
