"""Linear heads on image features, in npz, safetensors or a state dict."""

from __future__ import annotations

import io
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.method import Module
from compatbench.method.checkpoint_reader import Checkpoint
from compatbench.method.format import Config, Converted, Format, Import, torch_bytes

WEIGHTS, BIASES = ("weight", "coef", "coef_"), ("bias", "intercept", "intercept_")
CLASSES = ("classes", "classes_")
WISE_FT = "classification_head"  # the part of a model that its names are of
ABSENT = -1e4  # bias of a class that the head does not know


class Linear(Format):
    """z = W f + b on features that are not normalised: ``weight`` and ``bias``, or sklearn's names.

    ``classes`` beside them, label numbers or names, says which class each row is of.
    """

    name, method = "linear", "linear_probe"
    normalized: ClassVar[bool] = False

    def recognise(self, file: Checkpoint) -> bool:
        weights, *others = (_named(file, names) for names in (WEIGHTS, BIASES, CLASSES))
        known = len(weights) + sum(map(len, others))
        flat = [name for name in weights if file.tensors[name].ndim == 2]
        plain = len(flat) == len(weights) == 1 and known == len(file.tensors)
        return plain and not is_head_of_wise_ft(file)

    def read(self, imported: Import) -> Converted:
        if not self.normalized:
            if is_head_of_wise_ft(imported.file):
                raise imported.error("is a head on normalised features; name linear_normalized")
            imported.notes.append(
                "on features that are not normalised; else name linear_normalized"
            )
        weight, bias = self._rows(imported)
        return Converted(Module({"weight": weight, "bias": bias}), {"normalized": self.normalized})

    def _rows(self, imported: Import) -> tuple[Tensor, Tensor]:
        """W ``[C, e]`` and b ``[C]`` in label order."""
        file = imported.file
        weights, biases = _named(file, WEIGHTS), _named(file, BIASES)
        if len(weights) != 1 or len(biases) > 1:
            raise imported.error("does not hold one 'weight', and one 'bias' at most")
        classes = self._classes(imported)
        count = len(imported.labels)
        if count == 2 and len(file.tensors[weights[0]]) == 1:  # as scikit-learn keeps two classes
            weight = imported.take(weights[0], "one e")
            bias = imported.take(biases[0], "one") if biases else weight.new_zeros(1)
            return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        letter = "C" if classes is None else "k"
        weight = imported.take(weights[0], f"{letter} e")
        bias = imported.take(biases[0], letter) if biases else weight.new_zeros(len(weight))
        if classes is None:
            return weight, bias
        if len(classes) != len(weight):
            raise imported.error(f"has {len(weight)} rows and {len(classes)} 'classes'")
        whole = weight.new_zeros(count, weight.shape[1]), weight.new_full((count,), ABSENT)
        whole[0][classes], whole[1][classes] = weight, bias
        return whole

    def _classes(self, imported: Import) -> list[int] | None:
        file, names = imported.file, list(imported.labels.names)
        key = next((name for name in CLASSES if name in file.tensors or name in file.values), None)
        if key is None:
            return None
        listed = file.tensors[key].tolist() if key in file.tensors else file.values[key]
        labels = [names.index(label) if label in names else label for label in listed]
        wrong = [label for label in labels if label not in range(len(names))]
        if wrong or len(set(labels)) < len(labels):
            what = f"'{wrong[0]}', which is not a class of the task" if wrong else "a class twice"
            raise imported.error(f"has {what} in '{key}'; give the task that it was trained for")
        return [int(label) for label in labels]

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        if config.get("normalized", False) != self.normalized:
            other = "linear" if self.normalized else "linear_normalized"
            raise CompatbenchError(f"its features are not those of '{self.name}'; name {other}")
        named = {name: module[name] for name in ("weight", "bias")}
        if path.suffix == ".npz":
            import numpy as np

            if named["weight"].dtype == torch.bfloat16:
                raise CompatbenchError("numpy has no bfloat16; give --dtype float32")
            weight, bias = (tensor.numpy() for tensor in named.values())
            buffer = io.BytesIO()
            np.savez(buffer, coef=weight, intercept=bias, classes=np.arange(len(weight)))
            content = buffer.getvalue()
        elif path.suffix == ".safetensors":
            from safetensors.torch import save

            content = save(named)
        else:
            content = torch_bytes(named)
        return {path: content}


class NormalizedLinear(Linear):
    """z = W f̂ + b on normalised features; files are as those of ``linear``.

    So are WiSE-FT's heads (mlfoundations/wise-ft, src/models/modeling.py), known by their names.
    """

    name = "linear_normalized"
    normalized = True

    def recognise(self, file: Checkpoint) -> bool:
        return is_head_of_wise_ft(file)


def is_head_of_wise_ft(file: Checkpoint) -> bool:
    return {name.rpartition(".")[0].rpartition(".")[2] for name in file.tensors} == {WISE_FT}


def _named(file: Checkpoint, names: tuple[str, ...]) -> list[str]:
    """The tensors with one of these as the last part of their names."""
    return [name for name in file.tensors if name.rpartition(".")[2] in names]
