"""Stored indexes of embeddings: keep the old model, encode again, or map them to the new one."""

from compatbench.plugins import REQUIRED, Command, Option

FUNCTIONS = {
    "fit_index_map": "index_maps:fit_index_map",
    "load_index_map": "index_maps:load_index_map",
    "measure_index": "measure_index:measure_index",
    "port_index": "port_index:port_index",
}
GROUPS = {"index": "Stored vectors of any embedding model: measured, and mapped to a new model."}
_PAIR = Option(annotation="tuple[Path, Path] | None", metavar="OLD NEW")
_PATH = Option(annotation="Path | None")
COMMANDS = {
    "index measure": Command(
        "measure_index",
        shown="commands:measure",
        note="For example: compatbench index measure old.npy new.npy --queries old-q.npy new-q.npy "
        "--relevant relevant.csv",
        options={
            "old": Option("", annotation="Path"),
            "new": Option("", annotation="Path"),
            "queries": _PAIR,
            "pairs": _PAIR,
            "ids": Option(annotation="tuple[Path, Path] | None", metavar="ITEMS QUERIES"),
            "labels": _PATH,
            "query_labels": _PATH,
            "relevant": _PATH,
            "k": Option(least=1),
        },
        also=("as_json",),
    ),
    "index map": Command(
        "fit_index_map",
        shown="commands:fit",
        note="For example: compatbench index map --pairs old.npy new.npy --out map.safetensors",
        options={
            "pairs": Option(
                ("--pairs",),
                annotation="tuple[Path, Path]",
                default=REQUIRED,
                metavar="OLD NEW",
            ),
            "out": Option("--out", "The file to write.", "Path", REQUIRED),
        },
    ),
    "index port": Command(
        "port_index",
        shown="commands:port",
        note="For example: compatbench index port photos.npy --map map.safetensors --out new.npy",
        options={
            "index": Option("", annotation="Path"),
            "index_map": Option("--map", annotation="Path | None"),
            "out": Option("--out", annotation="Path", default=REQUIRED),
        },
        also=("offline",),
    ),
}
