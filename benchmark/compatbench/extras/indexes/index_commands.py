"""``compatbench index measure``, ``map``, ``port``, ``one-model`` and ``runtime``."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from compatbench.cli.completion import complete_backbones
from compatbench.cli.groups import MORE, app
from compatbench.cli.output import print_json, say
from compatbench.cli.shared_options import AsJson, Cards, Offline
from compatbench.cli.stoppable import stoppable

index = app.add_group(
    "index", "Measure stored vectors of any embedding model, and map them to a new one.", MORE
)

Column = Annotated[
    str | None, typer.Option(help="The column of vectors, if a parquet file has several.")
]


@index.command("measure")
def measure(
    old: Annotated[
        Path,
        typer.Argument(help="The items encoded by the old model: a '.npy', parquet or Faiss file."),
    ],
    new: Annotated[
        Path,
        typer.Argument(help="The same items encoded by the new model, in the same rows."),
    ],
    queries: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="OLD NEW",
            help="The same queries encoded by both models. Without them, every second row of the "
            "index is a query (2,000 at most) that does not find itself.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="The class of each item; an item is relevant to queries of its class: lines of a "
            "text, a '.npy', or a CSV file with a column 'label'."
        ),
    ] = None,
    query_labels: Annotated[Path | None, typer.Option(help="The class of each query.")] = None,
    relevant: Annotated[
        Path | None,
        typer.Option(
            help="Instead of labels, a CSV file with columns 'query', 'item' and, if there are "
            "grades, 'grade'. Without both, the ten nearest items in the re-encoded index count as "
            "relevant; this shows what a map preserves, but not whether the new model is better."
        ),
    ] = None,
    ids: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="ITEMS QUERIES",
            help="The names of items and queries in '--relevant', in the order of their vectors: "
            "lines of a text, or a CSV file with a column 'id'. By default row numbers from 0.",
        ),
    ] = None,
    pairs: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="OLD NEW",
            help="Other items encoded by both models, to fit the map on. By default these are rows "
            "of the index, half of them at most, and first those that no query needs; they leave "
            "the index.",
        ),
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="How many results recall looks at.")] = 10,
    column: Column = None,
    as_json: AsJson = False,
) -> None:
    """Measure whether to keep the old model, re-encode an index, or map it to the new model.

    Works on vectors of any two models, of images, texts or sound, and loads no model. Vectors are
    compared by cosine, exactly, in blocks. Encode a sample of the index with the new model, and
    some queries with both.

    For example: compatbench index measure old.npy new.npy --queries old-q.npy new-q.npy --relevant
    relevant.csv
    """
    import compatbench

    measured = compatbench.measure_index(
        old,
        new,
        queries=queries,
        labels=labels,
        query_labels=query_labels,
        relevant=relevant,
        ids=ids,
        pairs=pairs,
        k=k,
        column=column,
    )
    if as_json:
        print_json(measured)
    else:
        say(escape(str(measured)))


@index.command("map")
def fit(
    pairs: Annotated[
        tuple[Path, Path],
        typer.Option(
            metavar="OLD NEW",
            help="The same items encoded by the old and by the new model, in the same rows: two "
            "'.npy', parquet or Faiss files.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    kind: Annotated[
        Literal["best", "orthogonal", "ridge"],
        typer.Option(
            help="'orthogonal' or 'ridge'; by default whichever is better on held-out pairs."
        ),
    ] = "best",
    column: Column = None,
) -> None:
    """Fit a map from the vectors of an old model to those of a new one. No model is loaded.

    An orthogonal map (Procrustes analysis) rotates the centred vectors. A ridge regression also
    stretches them; its penalty is the distance from the orthogonal map, with a weight that is
    chosen on held-out pairs. Give at least twice as many pairs as the old vectors have dimensions.

    For example: compatbench index map --pairs old.npy new.npy --out map.safetensors
    """
    import compatbench

    fitted = compatbench.fit_index_map(pairs, kind=kind, column=column, out=out)
    say(escape(f"wrote {out}: {fitted}"))


@index.command("port")
def port(
    index: Annotated[Path, typer.Argument(help="A '.npy', parquet or Faiss file.")],
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write. Its ending chooses the format: '.npy', '.parquet' or '.faiss'."
        ),
    ],
    index_map: Annotated[
        Path | None,
        typer.Option("--map", help="The file of the map, as 'index map' writes it."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Instead of a map, with '--target': the CLIP model that made the index. The map "
            "then comes from how both models encode a list of words.",
            autocompletion=complete_backbones,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Instead of a map, with '--source': the new CLIP model.",
            autocompletion=complete_backbones,
        ),
    ] = None,
    column: Column = None,
    device: Annotated[str, typer.Option(help="Where the two models run.")] = "auto",
    offline: Offline = False,
    cards: Cards = None,
) -> None:
    """Map the vectors of an old model to a new model's space, and write them to a file.

    The index is read and mapped in blocks, so memory does not grow with it, except for Faiss, which
    keeps an index in memory. Vectors keep their order, their length and their type; parquet files
    keep their other columns, and Faiss its ids and its metric.

    For example: compatbench index port photos.npy --map map.safetensors --out new.npy
    """
    with stoppable("no index was written"):
        import compatbench

        ported = compatbench.port_index(
            index,
            index_map,
            out=out,
            source=source,
            target=target,
            column=column,
            device=device,
        )
    say(escape(str(ported)))


@index.command("one-model")
def one_model(
    index: Annotated[Path, typer.Argument(help="A '.npy', parquet or Faiss file.")],
    sample: Annotated[int, typer.Option(min=1, help="How many rows to look at.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample.")] = 0,
    column: Column = None,
    as_json: AsJson = False,
) -> None:
    """Find out from a sample whether all vectors of an index come from one model.

    A model with a small share of the rows can be missed. Two models that share an embedding space,
    such as a model and its fine-tuned copy, count as one. Exits with 1 if the answer is no.

    For example: compatbench index one-model photos.npy
    """
    import compatbench

    found = compatbench.check_one_model(index, column=column, sample=sample, seed=seed)
    if as_json:
        print_json(found)
    else:
        say(escape(str(found)))
    if found.answer == "no":
        raise typer.Exit(1)


@index.command("runtime")
def runtime(
    stored: Annotated[
        Path, typer.Argument(help="The stored vectors of some items: a '.npy', parquet or Faiss.")
    ],
    again: Annotated[Path, typer.Argument(help="The same items encoded again, in the same rows.")],
    column: Column = None,
    as_json: AsJson = False,
) -> None:
    """Find out whether a new runtime changed vectors, from items that are encoded again.

    A runtime is the program, precision or hardware that computes a model. The answer is yes if a
    search with the new vectors finds other items: significantly less than 98 % of the ten nearest.
    Cosines that differ by less than 0.001 count as equal. Files whose vectors have no neighbours
    in common are an error: their rows do not match. Exits with 1 if the answer is yes.

    For example: compatbench index runtime stored.npy again.npy
    """
    import compatbench

    found = compatbench.check_runtime(stored, again, column=column)
    if as_json:
        print_json(found)
    else:
        say(escape(str(found)))
    if found.answer == "yes":
        raise typer.Exit(1)
