"""Images that only one of a module and zero-shot gets right: the counts of a paired test.

Both classifiers use the same backbone and answer the same test set. The difference between the two
counts is the difference between their numbers of correct answers.
"""

from compatbench.results.measures.measure_registry import Answers, measure


@measure("Only module", "images", "higher")
def only_module(answers: Answers) -> int:
    """Right with the module, wrong with the model's own zero-shot classifier."""
    with_module = answers.right(answers.predictions)
    without = answers.right(answers.zero_shot)
    return int((with_module & ~without).sum())


@measure("Only zero-shot", "images", "lower")
def only_zeroshot(answers: Answers) -> int:
    """Right with the model's own zero-shot classifier, wrong with the module."""
    with_module = answers.right(answers.predictions)
    without = answers.right(answers.zero_shot)
    return int((without & ~with_module).sum())
