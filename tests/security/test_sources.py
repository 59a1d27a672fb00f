"""No code here can be made to run what it reads: found in the sources themselves."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

FOLDERS = ("src", "scripts", "benchmarks")
SOURCES = [REPOSITORY / "run.py", *(path for name in FOLDERS for path in sorted((REPOSITORY / name).rglob("*.py")))]
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
HARMLESS = {"pickle.UnpicklingError", "xml.sax.saxutils.escape", "xml.sax.saxutils.quoteattr"}
CALLS = {  # that make code out of text, or a program
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "pty.spawn", "torch.jit.load", "torch.hub.load", "yaml.unsafe_load",
    "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all", "yaml.load_all", "hydra.utils.instantiate",
    "hydra.utils.call", "hydra.utils.get_class", "hydra.utils.get_method", "hydra.utils.get_object", "code.interact",
    "shutil.unpack_archive", "pandas.read_pickle", "numpy.fromregex", "builtins.eval", "builtins.exec",
}  # fmt: skip
UNPICKLING = {"numpy.load", "numpy.lib.format.read_array", "numpy.lib.format.write_array", "numpy.lib.npyio.NpzFile"}
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}


def names_of(tree: ast.AST) -> dict[str, str]:
    """What a module's names stand for, of those that it imports."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """The full name of what is called, empty for what has none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names)}.{node.attr}"
    return ""


def faults(source: str) -> Iterator[str]:
    """A sentence for everything that could run what it reads."""
    tree = ast.parse(source)
    names = names_of(tree)
    safe = SAFE_LOADERS | {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and {dotted(base, names) for base in node.bases} <= SAFE_LOADERS
        and node.bases
    }
    for node in ast.walk(tree):
        yield from _imports(node)
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func, names)
        given = {word.arg: word.value for word in node.keywords}
        constants = {word: value.value for word, value in given.items() if isinstance(value, ast.Constant)}
        if called in CALLS or called.startswith(("os.exec", "os.spawn", "os.posix_spawn")):
            yield f"{called} runs what it is given"
        if called == "torch.load" and constants.get("weights_only") is not True:
            yield "torch.load without weights_only=True"
        if called in UNPICKLING and "allow_pickle" in given and constants.get("allow_pickle") is not False:
            yield f"{called} with allow_pickle"
        if called == "yaml.load":
            loader = given.get("Loader", node.args[1] if len(node.args) > 1 else ast.Constant(None))
            if dotted(loader, names) not in safe:
                yield "yaml.load without a safe loader"
        if given.get("shell") is not None and constants.get("shell") is not False:
            yield f"{called} with a shell"
        if called.endswith(".extractall") and constants.get("filter") != "data":
            yield "extractall, without a filter or of an archive that has none"
        if called == "importlib.import_module" and not isinstance(node.args[0], ast.Constant):
            yield "a module whose name is data"


def _imports(node: ast.AST) -> Iterator[str]:
    found = []
    if isinstance(node, ast.Import):
        found = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        found = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in found:
        if name in HARMLESS:
            continue
        if name.partition(".")[0] in UNPICKLERS:
            yield f"{name} runs what it reads"
        if name.partition(".")[0] in {"xml", "lxml"}:
            yield f"{name}: a parser of XML, which unfolds entities"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_nothing_runs_what_it_reads(path: Path) -> None:
    assert list(faults(path.read_text(encoding="utf-8"))) == []


BAD = [
    "import torch\ntorch.load(path)",
    "import torch\ntorch.load(path, weights_only=False)",
    "import torch\ntorch.load(path, weights_only=flag)",
    "from torch import load\nload(path)",
    "import torch\ntorch.jit.load(path)",
    "import numpy as np\nnp.load(path, allow_pickle=True)",
    "from numpy.lib import format\nformat.read_array(file, allow_pickle=flag)",
    "import pickle",
    "from pickle import loads",
    "import joblib",
    "from cloudpickle import loads",
    "def f():\n    import shelve",
    "import marshal as m",
    "import yaml\nyaml.load(text)",
    "import yaml\nyaml.load(text, yaml.Loader)",
    "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
    "import yaml\nclass L(yaml.Loader): pass\nyaml.load(text, L)",
    "from yaml import unsafe_load\nunsafe_load(text)",
    "eval(text)",
    "exec(text)",
    "import os\nos.system(text)",
    "import os\nos.execvp(text, [])",
    "import subprocess\nsubprocess.run(text, shell=True)",
    "import subprocess as s\ns.Popen(text, shell=flag)",
    "from hydra.utils import instantiate\ninstantiate(cfg)",
    "import hydra\nhydra.utils.call(cfg)",
    "import tarfile\ntarfile.open(path).extractall(folder)",
    "import tarfile\ntarfile.open(path).extractall(folder, filter='tar')",
    "import zipfile\nzipfile.ZipFile(path).extractall(folder)",
    "import xml.etree.ElementTree as E",
    "from lxml import etree",
    "import importlib\nimportlib.import_module(name)",
    "__import__(name)",
]
GOOD = [
    "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
    "import numpy as np\nnp.load(path)",
    "import numpy as np\nnp.load(path, allow_pickle=False)",
    "from pickle import UnpicklingError",
    "import yaml\nyaml.safe_load(text)",
    "import yaml\nclass L(yaml.SafeLoader): pass\nyaml.load(text, L)",
    "import subprocess\nsubprocess.run([program], check=True)",
    "import tarfile\ntarfile.open(path).extractall(folder, filter='data')",
    "model.eval()",
]


@pytest.mark.parametrize("source", BAD)
def test_what_is_looked_for_is_found(source: str) -> None:
    assert list(faults(source))


@pytest.mark.parametrize("source", GOOD)
def test_what_is_safe_is_left_alone(source: str) -> None:
    assert list(faults(source)) == []
