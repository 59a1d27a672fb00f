"""How each method goes from a category's images to scores: one small module per method.

A pipeline is a function of what the run shares, a category, its references and a dict that takes seconds by stage. It
gives one score per test image and, where the method has them, maps. To add one, write that function in a module of its
own here and name it in `PIPELINES`.
"""

from collections.abc import Callable, Sequence

from winclip_bench.config import Method
from winclip_bench.data import Category
from winclip_bench.pipelines.defect_types import run_defect_types
from winclip_bench.pipelines.embedding import run_linear_head, run_prototypes
from winclip_bench.pipelines.shared import Evaluation, Reference, Scored
from winclip_bench.pipelines.winclip import run_winclip

Pipeline = Callable[[Evaluation, Category, Sequence[Reference], dict[str, float]], Scored]

PIPELINES: dict[Method, Pipeline] = {
    Method.winclip: run_winclip,
    Method.defect_types: run_defect_types,
    Method.prototypes: run_prototypes,
    Method.linear_head: run_linear_head,
}
