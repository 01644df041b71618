"""mteb's benchmark tasks in small on the loopback hub: each under the name, revision and layout that mteb asks for."""

import io
from typing import Any

import pandas as pd
import yaml
from hub import Hub
from mteb.abstasks import AbsTaskRetrieval

from hrsa.study.profile import load_profile
from hrsa.texts.suite import load_task

QUERIES, DOCUMENTS = 4, 12
SOME = 2  # subsets of tasks that have hundreds, each in a configuration of its own
_SPLITS = {"qrel_diff": ["qrel_diff"]}  # of tables that have a split of their own
_RENAMED = ("SprintDuplicateQuestions", "TwitterURLCorpus")  # their columns on the hub have other names
Configs = dict[str, dict[str, pd.DataFrame]]  # configuration -> split -> rows


def publish(hub: Hub, task: Any) -> None:
    """Put a few rows for `task`, with texts of the study's own suite, where mteb will look for them."""
    where = task.metadata.dataset
    configs = _configs(task)
    if "name" in where:
        configs = {where["name"]: next(iter(configs.values()))}
    hub.commit(where["path"], dataset_files(configs), "dataset", sha=where["revision"])


def dataset_files(configs: Configs) -> dict[str, bytes]:
    """The files of a hub data set: parquet by configuration and split, and the card that lists them."""
    files, listed = {}, []
    for config, splits in configs.items():
        entries = []
        for split, table in splits.items():
            buffer = io.BytesIO()
            table.to_parquet(buffer, index=False)
            files[path := f"{config}/{split}.parquet"] = buffer.getvalue()
            entries.append({"split": split, "path": path})
        listed.append({"config_name": config, "data_files": entries})
    card = yaml.safe_dump({"configs": listed}, sort_keys=False)
    return files | {"README.md": f"---\n{card}---\n".encode()}


def texts(count: int) -> list[str]:
    """Passages of the suite, shortened; the second is empty, as a few of the published corpora have it."""
    found = load_task("PerlFAQRetrieval", load_profile("smoke")).corpus["text"].str[:120].tolist()
    chosen = [found[i % len(found)] + " " * (i // len(found)) for i in range(count)]
    chosen[1] = ""
    return chosen


def _configs(task: Any) -> Configs:
    subsets = task.hf_subsets
    splits = task.metadata.eval_splits
    name = type(task).__name__
    if name.startswith("Bright"):
        return _bright(task, name)
    if task.metadata.name in _OWN:
        return _OWN[task.metadata.name](task, splits)
    if getattr(task, "parallel_subsets", False):
        return _parallel(subsets, splits)
    if isinstance(task, AbsTaskRetrieval):
        return {k: v for subset in subsets for k, v in _retrieval(task, subset, splits).items()}
    rows = {"BitextMining": _bitext, "STS": _sts, "PairClassification": _pairs, "Classification": _labelled,
            "MultilabelClassification": _many_labels, "Clustering": _clusters}[task.metadata.type](task)
    named = dict.fromkeys(("train", *splits), rows)
    if task.metadata.is_multilingual and task.fast_loading:  # all subsets in one configuration, told by a column
        every = pd.concat([rows.assign(lang=subset) for subset in subsets], ignore_index=True)
        return {"default": dict.fromkeys(named, every)}
    return dict.fromkeys(subsets, named)


def _retrieval(task: Any, subset: str, splits: list[str]) -> Configs:
    front = "" if subset == "default" else f"{subset}-"
    documents = [f"d{i}" for i in range(DOCUMENTS)]
    queries = [f"q{i}" for i in range(QUERIES)]
    tables = {
        "corpus": pd.DataFrame({"_id": documents, "title": "", "text": texts(DOCUMENTS)}),
        "queries": pd.DataFrame({"_id": queries, "text": [f"how to do {i} in perl" for i in range(QUERIES)]}),
        "qrels": pd.DataFrame({"query-id": queries, "corpus-id": documents[2 : 2 + QUERIES], "score": 1})}
    if task.metadata.type in ("Reranking", "InstructionReranking"):
        tables["top_ranked"] = pd.DataFrame({"query-id": queries, "corpus-ids": [documents[:8]] * QUERIES})
    if task.metadata.type == "InstructionReranking":
        tables["instruction"] = pd.DataFrame({"query-id": queries, "instruction": "Only passages on files."})
        tables = _changed_queries(tables, queries, documents)
    names = {"qrels": "default"} if not front else {}
    return {front + names.get(table, table): dict.fromkeys(_SPLITS.get(table, splits), rows)
            for table, rows in tables.items()}


def _changed_queries(tables: dict[str, pd.DataFrame], queries: list[str], documents: list[str]
                     ) -> dict[str, pd.DataFrame]:
    """Each query twice, as p-MRR compares them: before and after its instruction was changed."""
    twice = [f"{query}-{state}" for query in queries for state in ("og", "changed")]
    return tables | {
        "queries": pd.DataFrame({"_id": twice, "text": [f"how to do {name} in perl" for name in twice]}),
        "qrels": pd.DataFrame({"query-id": twice, "corpus-id": documents[2 : 2 + len(twice)], "score": 1}),
        "top_ranked": pd.DataFrame({"query-id": twice, "corpus-ids": [documents] * len(twice)}),
        "instruction": pd.DataFrame({"query-id": twice, "instruction": [f"Only passages on {n}." for n in twice]}),
        "qrel_diff": pd.DataFrame({"query-id": queries, "corpus-ids": [[documents[2]]] * len(queries)})}


def _bright(task: Any, name: str) -> Configs:
    """Documents and examples by domain, with the ids that a query must not find."""
    domain = task.domain if hasattr(task, "domain") else None
    domains = [domain] if domain else ["biology", "earth_science", "economics", "psychology", "robotics",
                                       "stackoverflow", "sustainable_living", "pony", "leetcode", "aops",
                                       "theoremqa_theorems", "theoremqa_questions"]
    documents = pd.DataFrame({"id": [f"d{i}" for i in range(DOCUMENTS)], "content": texts(DOCUMENTS)})
    examples = pd.DataFrame({
        "id": [f"{i}" for i in range(QUERIES)], "query": [f"how to do {i} in perl" for i in range(QUERIES)],
        "gold_ids": [[f"d{i + 2}"] for i in range(QUERIES)], "gold_ids_long": [[f"d{i + 2}"] for i in range(QUERIES)],
        "excluded_ids": [["d9"] if i else ["N/A"] for i in range(QUERIES)]})
    long = documents.assign(content=[text * 40 for text in documents["content"]])
    return {"documents": dict.fromkeys(domains, documents), "long_documents": dict.fromkeys(domains, long),
            "examples": dict.fromkeys(domains, examples)}


def _bitext(task: Any) -> pd.DataFrame:
    there = texts(8)
    return pd.DataFrame({"sentence1": there, "sentence2": [f"{text}!" for text in there]})


def _parallel(subsets: list[str], splits: list[str]) -> Configs:
    """All languages as columns of one table, of which each subset names two."""
    there = texts(8)
    columns = {language: [f"{text} ({language})" for text in there]
               for language in sorted({part for subset in subsets for part in subset.split("-")})}
    return {"default": dict.fromkeys(splits, pd.DataFrame(columns))}


def _bible(task: Any, splits: list[str]) -> Configs:
    """A configuration for each pair with English, whose columns are the languages."""
    there = texts(8)
    names = [task._transform_lang_name_hf(subset) for subset in task.hf_subsets[:SOME]]
    return {name: dict.fromkeys(splits, pd.DataFrame({part: [f"{text} ({part})" for text in there]
                                                      for part in name.split("-")})) for name in names}


def _belebele(task: Any, splits: list[str]) -> Configs:
    """A configuration for each language, of questions beside the passage that answers them."""
    languages = {one.replace("-", "_") for subset in task.hf_subsets[:SOME] for one in task.metadata.eval_langs[subset]}
    rows = pd.DataFrame({"link": [f"l{i}" for i in range(DOCUMENTS)], "flores_passage": texts(DOCUMENTS),
                         "question": [f"how to do {i} in perl" for i in range(DOCUMENTS)]})
    return {language: dict.fromkeys(splits, rows) for language in languages}


def _sib200(task: Any, splits: list[str]) -> Configs:
    """A configuration for each language, of three splits that the task joins."""
    rows = pd.DataFrame({"category": [f"topic {i % 3}" for i in range(24)], "text": texts(24)})
    return {subset: dict.fromkeys(("train", "validation", "test"), rows) for subset in task.hf_subsets[:SOME]}


def _by_year(task: Any, splits: list[str]) -> Configs:
    """Splits that are named by the year of their texts."""
    return {"default": dict.fromkeys(("train_2021", *splits), _labelled(task))}


def _categories(task: Any, splits: list[str]) -> Configs:
    """A label that is called category."""
    rows = _labelled(task).rename(columns={"label": "category"})
    return {subset: dict.fromkeys(("train", *splits), rows) for subset in task.hf_subsets}


def _hate(task: Any, splits: list[str]) -> Configs:
    """All languages in one table, large enough for the samples that the task draws by kind of hate speech."""
    there = pd.DataFrame({"text": texts(2000), "is_hateful": [i % 2 for i in range(2000)],
                          "functionality": [f"kind {i % 4}" for i in range(2000)]})
    every = pd.concat([there.assign(lang=subset) for subset in task.hf_subsets], ignore_index=True)
    return {"default": dict.fromkeys(splits, every)}


def _nested(task: Any, splits: list[str]) -> Configs:
    """Rows that are lists of texts and of labels with a main and a second part, as older clusterings have them."""
    count = 2200  # the hierarchical ones draw 2,048
    rows = pd.DataFrame({"sentences": [texts(count)], "labels": [[f"{i % 3}.{i % 5}" for i in range(count)]]})
    return {"default": dict.fromkeys(splits, rows)}


def _flat(task: Any, splits: list[str]) -> Configs:
    """Texts with their labels, one a row, enough for the sample that the task draws."""
    rows = pd.DataFrame({"sentences": texts(2200), "labels": [f"{i % 3}" for i in range(2200)]})
    return {"default": dict.fromkeys(splits, rows)}


def _entailment(task: Any, splits: list[str]) -> Configs:
    """Premise and hypothesis with three kinds of relation."""
    there = texts(9)
    rows = pd.DataFrame({"premise": there, "hypothesis": there[3:] + there[:3], "label": [i % 3 for i in range(9)]})
    return {subset: dict.fromkeys(splits, rows) for subset in task.hf_subsets}


def _code_search(task: Any, splits: list[str]) -> Configs:
    """Configurations by language, whose queries say which split they are of."""
    found: Configs = {}
    for subset in task.hf_subsets:
        tables = {name.removeprefix(f"{subset}-"): next(iter(rows.values()))
                  for name, rows in _retrieval(task, subset, splits).items()}
        found |= {f"{subset}-qrels": dict.fromkeys(splits, tables["qrels"]),
                  f"{subset}-corpus": {"corpus": tables["corpus"]},
                  f"{subset}-queries": {"queries": tables["queries"].assign(partition="test")}}
    return found


def _edits(task: Any, splits: list[str]) -> Configs:
    """A folder for each language, of changes beside what they were asked to do."""
    rows = pd.DataFrame({"commit": [f"d{i}" for i in range(DOCUMENTS)], "diff": texts(DOCUMENTS),
                         "instruction": [f"how to do {i} in perl" for i in range(DOCUMENTS)]})
    return {language: dict.fromkeys(splits, rows) for language in task.hf_subsets}


_OWN = {"BibleNLPBitextMining": _bible, "BelebeleRetrieval": _belebele, "SIB200ClusteringS2S": _sib200,
        "TweetTopicSingleClassification": _by_year, "MasakhaNEWSClassification": _categories,
        "MultiHateClassification": _hate, "XNLI": _entailment, "CodeEditSearchRetrieval": _edits,
        "CodeSearchNetCCRetrieval": _code_search, "COIRCodeSearchNetRetrieval": _code_search,
        **dict.fromkeys(("ArXivHierarchicalClusteringP2P", "ArXivHierarchicalClusteringS2S",
                         "StackExchangeClustering.v2", "MedrxivClusteringP2P.v2"), _nested),
        **dict.fromkeys(("BigPatentClustering.v2", "BiorxivClusteringP2P.v2"), _flat)}


def _sts(task: Any) -> pd.DataFrame:
    there = texts(8)
    return pd.DataFrame({"sentence1": there, "sentence2": there[3:] + there[:3],
                         "score": [task.max_score * (i % 4) / 4 for i in range(8)]})


def _pairs(task: Any) -> pd.DataFrame:
    there = texts(8)
    names = ("sent1", "sent2") if task.metadata.name in _RENAMED else ("sentence1", "sentence2")
    return pd.DataFrame({names[0]: [there], names[1]: [there[3:] + there[:3]], "labels": [[0, 1] * 4]})


def _labelled(task: Any) -> pd.DataFrame:
    there = texts(48)
    return pd.DataFrame({task.input_column_name: there, task.label_column_name: [i % 2 for i in range(48)]})


def _many_labels(task: Any) -> pd.DataFrame:
    there = texts(48)
    return pd.DataFrame({task.input_column_name: there, task.label_column_name: [[i % 3] for i in range(48)]})


def _clusters(task: Any) -> pd.DataFrame:
    there = texts(24)
    if "Legacy" in "".join(c.__name__ for c in type(task).__mro__):
        return pd.DataFrame({task.input_column_name: [there], task.label_column_name: [[i % 3 for i in range(24)]]})
    return pd.DataFrame({task.input_column_name: there, task.label_column_name: [i % 3 for i in range(24)]})
