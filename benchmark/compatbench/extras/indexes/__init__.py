"""Stored indexes of embeddings: read, measured, and written anew for another model."""

from compatbench.plugins import Command, Option

FUNCTIONS = {
    "measure_index": "measure_index:measure_index",
    "port_index": "index_port:port_index",
    "retrieve": "retrieve:retrieve",
}
_PAIR, _PATH = "tuple[Path, Path] | None", Option(annotation="Path | None")
_NUMBERS = Option(annotation="str", read="compatbench.cli.options:read_numbers")
SECTIONS = {"indexes": "retrieval_tables:INDEXES"}
COMMANDS = {
    # In place of the core's, which ports modules alone.
    "module port": Command(
        "port",
        shown="commands:port",
        note="A stored index of image embeddings (.npy, .parquet or a flat .faiss) is ported, too: "
        "each vector is mapped to the new model's space, block by block, in memory that does not "
        "grow with it. Type, order, lengths, ids and other columns stay. For example: compatbench "
        "module port photos.npy --source vit-b16-openai --target eva02-b16",
        options={
            "backbone": Option("--target"),
            "transfer": Option(
                help="Of a module 'words', 'words+raw' or 'copied'; by default words for methods "
                "that act in the joint space, and copied for others. Of an index 'words', "
                "'images', 'low-rank', 'ridge' or 'copied'; by default ridge with images and words "
                "without.",
            ),
            "source": Option("--source", "Of an index: the model that made it.", default=None),
            "pairs": Option(
                help="Of an index, in place of --images: the vectors of the same images on both "
                "models, in the same rows.",
                annotation=_PAIR,
                metavar="OLD.npy NEW.npy",
            ),
            "out": Option(
                help="The file to write; by default FILE-for-MODEL in this folder.",
                annotation="Path | None",
            ),
        },
        also=("offline",),
        records={"index": ("port_index", "source", "images", "column")},
    ),
    "study index": Command(
        "measure_index",
        shown="commands:measure",
        note="For example: compatbench study index old.npy new.npy --queries old-q.npy new-q.npy "
        "--relevant qrels.csv. Nothing is written.",
        options={
            "old": Option(""),
            "new": Option(""),
            **dict.fromkeys(
                ("queries", "words", "paired"), Option(annotation=_PAIR, metavar="OLD NEW")
            ),
            "ids": Option(annotation=_PAIR, metavar="ITEMS QUERIES"),
            **dict.fromkeys(("relevant", "labels", "query_labels"), _PATH),
            **dict.fromkeys(("pairs", "seeds"), _NUMBERS),
        },
        also=("as_json",),
    ),
    "study retrieve": Command(
        "retrieve",
        shown="commands:retrieve",
        note="Adds the rows to results/retrieval/SUITE.csv, in place of older ones of the same "
        "upgrade, gallery and way.",
        options={
            "targets": Option("--target", completes="backbones"),
            **dict.fromkeys(("pairs", "seeds"), _NUMBERS),
            "out": Option(help="Folder of results/.", annotation="Path", default="."),
        },
        also=("data_root", "as_json", "offline"),
    ),
}
AUDITS = {"retrieval": "retrieval_files:make_again"}
