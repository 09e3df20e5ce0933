"""Linear heads on image features, in npz, safetensors or a state dict."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.method import Module
from compatbench.method.checkpoint_reader import Checkpoint
from compatbench.method.format import Config, Converted, Format, Import, torch_bytes

WEIGHTS = ("weight", "coef", "coef_")
BIASES = ("bias", "intercept", "intercept_")
CLASSES = ("classes", "classes_")
# The names under which files keep the classes of their rows.
LISTS = ("class_names", "classnames", *CLASSES)
MAPPINGS = ("class_to_idx", "label2id", "idx_to_class", "id2label")
WISE_FT = "classification_head"  # the part of a model in the names of WiSE-FT's heads
ABSENT = -1e4  # bias of a class that the head does not know


class Linear(Format):
    """z = W f + b on features that are not normalised: ``weight`` and ``bias``, or sklearn's names.

    ``classes`` beside them, label numbers or names, gives the class of each row.
    """

    name = "linear"
    method = "linear_probe"
    normalized: ClassVar[bool] = False
    undecided: ClassVar = {"normalized": (False, True)}

    def recognise(self, file: Checkpoint) -> bool:
        weights = _find_named(file, WEIGHTS)
        known = len(weights) + len(_find_named(file, BIASES)) + len(_find_named(file, CLASSES))
        has_others = known < len(file.tensors)
        if len(weights) != 1 or has_others or is_head_of_wise_ft(file):
            return False
        return file.tensors[weights[0]].ndim == 2

    def read(self, imported: Import) -> Converted:
        if not self.normalized and is_head_of_wise_ft(imported.file):
            raise imported.error("is a head on normalised features; name linear_normalized")
        weight, bias = self._rows(imported)
        return Converted(Module({"weight": weight, "bias": bias}), {"normalized": self.normalized})

    def _rows(self, imported: Import) -> tuple[Tensor, Tensor]:
        """Return W ``[C, e]`` and b ``[C]`` in label order."""
        file = imported.file
        weights = _find_named(file, WEIGHTS)
        if len(weights) != 1 or len(_find_named(file, BIASES)) > 1:
            raise imported.error("does not hold one 'weight', and one 'bias' at most")
        classes = self._classes(imported)
        count = len(imported.labels)
        if count == 2 and len(file.tensors[weights[0]]) == 1:  # as scikit-learn keeps two classes
            row = imported.take(weights[0], "one e")
            row_bias = _take_bias(imported, "one", row)
            weight = torch.cat([-row, row]) / 2
            bias = torch.cat([-row_bias, row_bias]) / 2
        else:
            letter = "C" if classes is None else "k"
            weight = imported.take(weights[0], f"{letter} e")
            bias = _take_bias(imported, letter, weight)
        if classes is None:
            first = ", ".join(imported.labels.names[:3])
            imported.notes.append(
                f"the file does not name its classes: its rows are in the order {first}, ..., or "
                "give another with --class-names FILE"
            )
            return weight, bias
        if len(classes) != len(weight):
            raise imported.error(f"has {len(weight)} rows and {len(classes)} 'classes'")
        all_weights = weight.new_zeros(count, weight.shape[1])
        all_biases = weight.new_full((count,), ABSENT)
        all_weights[classes] = weight
        all_biases[classes] = bias
        return all_weights, all_biases

    def _classes(self, imported: Import) -> list[int] | None:
        """Return the label of each row, or None if the file does not list its classes.

        Raises:
            CompatbenchError: a class is not one of the task, or is listed twice.
        """
        names = list(imported.labels.names)
        key, listed = _find_classes(imported)
        if not key:
            return None
        labels = []
        for entry in listed:
            found = imported.labels.find(entry)
            label = entry if found is None else found
            if label not in range(len(names)):
                raise imported.error(
                    f"has '{label}', which is not a class of the task in '{key}'; give the task "
                    "that it was trained for"
                )
            labels.append(int(label))
        if len(set(labels)) < len(labels):
            raise imported.error(
                f"has a class twice in '{key}'; give the task that it was trained for"
            )
        return labels

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        if config.get("normalized", False) != self.normalized:
            other = "linear" if self.normalized else "linear_normalized"
            raise CompatbenchError(f"its features are not those of '{self.name}'; name {other}")
        tensors = {"weight": module["weight"], "bias": module["bias"]}
        if path.suffix == ".npz":
            names = module.about.get("labels", {}).get("names", [])
            content = _npz_bytes(module["weight"], module["bias"], names)
        elif path.suffix == ".safetensors":
            from safetensors.torch import save

            content = save(tensors)
        else:
            content = torch_bytes(tensors)
        return {path: content}


class NormalizedLinear(Linear):
    """z = W f̂ + b on normalised features; files are as those of ``linear``.

    So are WiSE-FT's heads (mlfoundations/wise-ft, src/models/modeling.py), known by their names.
    """

    name = "linear_normalized"
    normalized = True
    undecided: ClassVar = {}

    def recognise(self, file: Checkpoint) -> bool:
        return is_head_of_wise_ft(file)


def is_head_of_wise_ft(file: Checkpoint) -> bool:
    """Return True if all tensors are parts of a ``classification_head``."""
    owners = {name.rpartition(".")[0].rpartition(".")[2] for name in file.tensors}
    return owners == {WISE_FT}


def _find_classes(imported: Import) -> tuple[str, list[Any]]:
    """Return the name under which a file has the classes of its rows, and them; '' if nowhere.

    They are a list, or a mapping from names to numbers or from numbers to names, as torchvision's
    ``class_to_idx`` and the ``id2label`` of transformers.

    Raises:
        CompatbenchError: the file has them in another form.
    """
    file = imported.file
    for key in LISTS:
        if key in file.tensors:
            return key, file.tensors[key].tolist()
        if isinstance(file.values.get(key), list):
            return key, file.values[key]
    for key in MAPPINGS:
        by_number = {}
        for name, value in file.values.items():
            if name.startswith(f"{key}."):
                rest = name.removeprefix(f"{key}.")
                if isinstance(value, int):
                    by_number[value] = rest
                    continue
                try:
                    by_number[int(rest)] = value
                except ValueError:
                    raise imported.error(
                        f"has {value!r} for {rest!r} in '{key}'; save a mapping from names to "
                        "whole numbers, or from whole numbers to names"
                    ) from None
        if not by_number:
            continue
        if sorted(by_number) != list(range(len(by_number))):
            raise imported.error(
                f"has other numbers than 0 to {len(by_number) - 1} in '{key}'; save the number of "
                "each row"
            )
        return key, [by_number[number] for number in range(len(by_number))]
    for key in (*LISTS, *MAPPINGS):
        if any(name == key or name.startswith(f"{key}.") for name in file.skipped):
            raise imported.error(
                f"has '{key}' as objects that are not read, such as those of numpy; save lists, "
                "texts and numbers of Python, as .tolist() of an array returns them"
            )
    return "", []


def _take_bias(imported: Import, size: str, weight: Tensor) -> Tensor:
    """Return the bias of each row of W, or zeros if the file has none."""
    biases = _find_named(imported.file, BIASES)
    if not biases:
        return weight.new_zeros(len(weight))
    return imported.take(biases[0], size)


def _npz_bytes(weight: Tensor, bias: Tensor, names: Sequence[str]) -> bytes:
    """Return an npz file with scikit-learn's names, and the names of the classes if known."""
    import numpy as np

    if weight.dtype == torch.bfloat16:
        raise CompatbenchError("numpy has no bfloat16; give --dtype float32")
    buffer = io.BytesIO()
    arrays = {"coef": weight.numpy(), "intercept": bias.numpy(), "classes": np.arange(len(weight))}
    if names:
        arrays["class_names"] = np.array(names)
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _find_named(file: Checkpoint, names: tuple[str, ...]) -> list[str]:
    """Return the tensors with one of these as the last part of their names."""
    return [name for name in file.tensors if name.rpartition(".")[2] in names]
