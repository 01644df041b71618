"""Models as mteb runs them: a SentenceTransformer with the study's rule for instructions, and BM25."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer

from hrsa.evaluation.embedding_cache import Embeddings, text_key
from hrsa.models.language_model import Attention, leak_probe
from hrsa.texts.bm25 import BM25
from hrsa.texts.suite import query_prompt

Uninstructed = Literal["refuse", "generic", "bare"]


def model_meta(model_id: str, revision: str, dense: bool = True) -> ModelMeta:
    """mteb's description of a model of the study: `hrsa/<model id>`, revision = the key of its scores."""
    return ModelMeta.create_empty(overwrites={
        "name": f"hrsa/{model_id}", "revision": revision, "languages": ["eng-Latn"], "use_instructions": dense,
        "model_type": ["dense" if dense else "sparse"], "similarity_fn_name": ScoringFunction.COSINE if dense else None,
    })


def task_instruction(metadata: Any, uninstructed: Uninstructed = "refuse") -> str | None:
    """The instruction that a task's queries carry; None for a task without one when `uninstructed` is "bare".

    `uninstructed` says what to do with a task that brings no instruction (all of MTEB(Code, v1)): "refuse" raises
    ValueError, "generic" takes mteb's phrase for the task type, "bare" gives the text alone.
    """
    prompt = metadata.prompt.get("query") if isinstance(metadata.prompt, dict) else metadata.prompt
    if prompt and prompt.strip():
        return prompt
    if uninstructed == "refuse":
        raise ValueError(f"expected an instruction for the queries of {metadata.name}, got none: give the task one, "
                         "or set suite.uninstructed to `generic` (mteb's phrase for the task type) or `bare`")
    if uninstructed == "bare":
        return None
    from mteb.abstasks.abstask import get_abstask_prompt  # no public name for it

    return get_abstask_prompt(metadata.name) or None


def own_prompt(prompts: Mapping[str, str], task: str, kind: str, side: PromptType | None) -> str:
    """A model's own prompt for one side of a task (None: a symmetric task): that of the task, of its kind (mteb's, such
    as `Retrieval`), or of queries and documents; "" where it has none."""
    part = side.value if side else "query"
    names = [f"{task}-{part}", task, f"{kind}-{part}", kind, part, *(["passage"] if part == "document" else [])]
    return next((prompts[name] for name in names if name in prompts), "")


class InstructedEncoder(AbsEncoder):
    """Encodes what mteb hands over: the task's instruction goes before queries, documents get none.

    In a symmetric task (pairs, STS, clustering, classification) there is no document side; every text is a query
    there and carries the instruction, which is mteb's convention for instructed models and that of the published
    embedders. The instruction travels as `prompt`, so that pooling can leave its tokens out as in training.

    attention: what the recipe, or a model as it came, says; RuntimeError when the network that is to be scored attends
    otherwise, whatever its configuration claims (`leak_probe`). own: prompts of a model that came with some
    (`as_it_came.Manner.own_prompts`), which then go before its texts in place of instructions. Embeddings are kept by
    content (prompt and text) as long as the object lives, and in `store` beyond that; equal texts are encoded once. One
    object per task: a resumed run then meets the same batches, and gets the same bits, as an unbroken one. Embeddings
    that another list of tasks left in the store may differ from fresh ones in the last bits, since texts that are
    embedded together are padded together. dimensions: the first so many of each vector are scored (None: all); the
    whole vectors are kept. ValueError when there are fewer.
    """

    def __init__(self, model: SentenceTransformer, meta: ModelMeta, attention: Attention,
                 uninstructed: Uninstructed = "refuse", store: Embeddings | None = None,
                 own: Mapping[str, str] | None = None, dimensions: int | None = None):
        leak_probe(model[0].model, model.tokenizer, attention)
        self.model, self.mteb_model_meta, self.uninstructed, self.store = model, meta, uninstructed, store
        self.own, self.dimensions = own, dimensions
        if dimensions is not None and dimensions > (width := model.get_embedding_dimension()):
            raise ValueError(f"expected suite.dimensions of at most the {width} of {meta.name}, got {dimensions}: "
                             "remove it")
        self.kept: dict[bytes, np.ndarray] = {}

    def encode(self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str,
               prompt_type: PromptType | None = None, **kwargs: Any) -> np.ndarray:
        """Embeddings of the texts of an mteb dataloader: (b, d) float32, in order."""
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = self._prompt(task_metadata, prompt_type)
        names = [text_key(prompt, text) for text in texts]
        new = {name: text for name, text in zip(names, texts, strict=True) if name not in self.kept}
        if new and self.store is not None:
            found = self.store.take(list(new))
            self.kept |= found
            new = {name: text for name, text in new.items() if name not in found}
        if new:
            fresh = self._embed(list(new.values()), prompt, task_metadata.name, kwargs.get("batch_size", 32))
            self.kept.update(zip(new, fresh, strict=True))
            if self.store is not None:
                self.store.add(list(new), fresh)
        return np.stack([self.kept[name] for name in names])[:, : self.dimensions]  # (b, d)

    def _prompt(self, task_metadata: Any, prompt_type: PromptType | None) -> str:
        """What goes before the texts of one side of a task (None: a symmetric task)."""
        if self.own is not None:
            return own_prompt(self.own, task_metadata.name, task_metadata.type, prompt_type)
        if prompt_type == PromptType.document:
            return ""
        instruction = task_instruction(task_metadata, self.uninstructed)
        return query_prompt(instruction) if instruction else ""

    def _embed(self, texts: list[str], prompt: str, task: str, batch_size: int) -> np.ndarray:
        """Encode distinct texts (sentence-transformers batches them by length); a vector of zeros or NaN raises.

        A blank text, which a few published corpora have, holds nothing to embed: its vector is zero, so that it is
        similar to no other.
        """
        vectors = self.model.encode(texts, prompt=prompt, batch_size=batch_size, convert_to_numpy=True,
                                    show_progress_bar=False).astype(np.float32)  # (b, d)
        lengths = np.linalg.norm(vectors, axis=1)  # (b,)
        blank = np.array([not text.strip() for text in texts])  # (b,)
        vectors[blank] = 0
        bad = np.flatnonzero((~np.isfinite(lengths) | (lengths == 0)) & ~blank)
        if len(bad):
            raise ValueError(
                f"expected finite, non-zero embeddings on {task}, got {len(bad)} of {len(texts)} that are not, first "
                f"for {texts[bad[0]][:80]!r}: the model is broken, or its max_seq_length of "
                f"{self.model.max_seq_length} tokens leaves no room after the prompt {prompt!r}")
        return vectors


class BM25Search:
    """What mteb's `SearchProtocol` asks of BM25: index a task's corpus, then rank it for each bare query."""

    def __init__(self, mteb_model_meta: Any):
        self.mteb_model_meta = mteb_model_meta

    def index(self, corpus: Any, **_: Any) -> None:
        """Index a corpus with columns id, text and perhaps title."""
        self.ids = list(corpus["id"])
        titles = corpus["title"] if "title" in corpus.column_names else [""] * len(self.ids)
        texts = [f"{title} {text}".strip() for title, text in zip(titles, corpus["text"], strict=True)]
        self.ranker = BM25(texts)

    def search(self, queries: Any, *, top_k: int, top_ranked: Any = None, **_: Any) -> dict[str, dict[str, float]]:
        """Scores of the `top_k` best documents per query id; of `top_ranked` only, where that is given."""
        found = {}
        for name, text in zip(queries["id"], queries["text"], strict=True):
            depth = top_k if top_ranked is None else self.ranker.n
            ranked = [(self.ids[i], score) for i, score in self.ranker.top(text, depth)]
            if top_ranked is not None:
                allowed = set(top_ranked[name])
                ranked = [(document, score) for document, score in ranked if document in allowed]
            found[name] = dict(ranked[:top_k])
        return found
