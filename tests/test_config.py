"""Configuration: every option composes, every documented command is accepted, every typo stops before a job starts."""

import re
import shlex
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from unittest import mock

import pytest
import yaml

from tests.helpers import REPOSITORY, Outcome, command, jobs
from winclip_bench import runner
from winclip_bench.config import Config

CONF = REPOSITORY / "conf"
NO_OPTIONS = {
    CONF,
    CONF / "prompts" / "defects",  # named by method.defect_prompts
    CONF / "hydra" / "launcher",  # Hydra's own group; see tests/launchers
}
FILES = sorted(path.relative_to(CONF).with_suffix("") for path in CONF.rglob("*.yaml") if path.parent not in NO_OPTIONS)
OPTIONS = [  # conf/prompts/defects holds data that methods name, no options
    (path.parts[0], path.relative_to(path.parts[0]).as_posix())
    for path in FILES
    if path.parts[:2] != ("prompts", "defects")
]
PAPER_BACKBONE = "vit_b_16_plus_240"
# Takes a cluster, or the data: see tests/launchers and test_sweep.py.
ELSEWHERE = ("hydra/launcher=", "hydra.launcher.", "split_categories=")
SCRIPTS = ("zero_shot.sh", "few_shot.sh")


def refused(*arguments: object) -> Outcome:
    """The outcome of a command of which no job may start."""
    with mock.patch.object(runner, "run", side_effect=AssertionError("a job has started")) as run:
        outcome = command(*arguments)
    assert run.call_count == 0
    assert outcome.code != 0
    return outcome


def script_arguments(name: str) -> list[str]:
    """What a script hands to run.py before the arguments of its caller."""
    (line,) = (line for line in (REPOSITORY / name).read_text().splitlines() if line and not line.startswith("#"))
    match = re.fullmatch(r'exec python "\$\(dirname "\$0"\)/run\.py" (.+) "\$@"', line)
    assert match, f"{name} does not hand its arguments to run.py: {line}"
    return shlex.split(match[1])


@cache
def swept(*arguments: str) -> list[Config]:
    """As `jobs`, once: composing a long sweep takes seconds."""
    return jobs(*arguments)


def documented_commands() -> list[tuple[str, list[str]]]:
    """Every command of ours in a fenced block of the README and docs, as (place, arguments)."""
    found = []
    for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for block in re.findall(r"^ *```[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                arguments = our_arguments(line)
                if arguments is not None:
                    found.append((f"{path.name}: {line.strip()}", arguments))
    return found


def our_arguments(line: str) -> list[str] | None:
    """The arguments of ``winclip-bench`` that a line of shell comes to; None where it is about something else."""
    try:
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
    except ValueError:  # not shell
        return None
    end = next((number for number, word in enumerate(words) if word in {"&&", "||", "|", ";", ">", "&"}), len(words))
    words = words[:end]
    while words and (re.fullmatch(r"[A-Z_]+=.*", words[0]) or words[0] in {"time", "bash", "sh", "uv", "run", "exec"}):
        words = words[1:]
    if not words:
        return None
    program = Path(words[0]).name
    if program == "winclip-bench":
        return None if words[1:2] == ["predict"] else words[1:]
    if program in SCRIPTS:
        return script_arguments(program) + words[1:]
    if program.startswith("python") and len(words) > 1 and Path(words[1]).name == "run.py":
        return words[2:]
    return None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("$ python run.py -m k_shot=0,1 dataset=mvtec  # sweep", ["-m", "k_shot=0,1", "dataset=mvtec"]),
        ('A=1 .venv/bin/python3 run.py "x=a b" | tee log', ["x=a b"]),
        ("winclip-bench --cfg job", ["--cfg", "job"]),
        ("./few_shot.sh dataset=visa", ["experiment=few_shot", "dataset=visa"]),
        ("make demo", None),
        ("it's not shell", None),
    ],
)
def test_commands_are_found_in_documentation(line: str, expected: list[str] | None) -> None:
    assert our_arguments(line) == expected


def test_every_documented_command_composes() -> None:
    commands = documented_commands()
    if not (REPOSITORY / "README.md").exists():
        pytest.skip("there is no README.md")
    assert commands, "README.md shows no command"
    failed = {}
    for place, arguments in commands:
        try:
            swept(*(word for word in arguments if not word.startswith(ELSEWHERE)))
        except AssertionError as error:
            failed[place] = str(error)
    assert not failed


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes(group: str, option: str) -> None:
    for config in jobs(f"{group}={option}", *(["k_shot=1", "seed=0"] if group == "experiment" else [])):
        if group in {"backbone", "dataset", "method", "prompts", "protocol", "tracker"}:
            assert getattr(config, group).name == option


def test_every_combination_of_dataset_and_backbone_composes() -> None:
    groups = [[option for group, option in OPTIONS if group == wanted] for wanted in ("dataset", "backbone")]
    configs = jobs("-m", f"dataset={','.join(groups[0])}", f"backbone={','.join(groups[1])}")
    assert [(config.dataset.name, config.backbone.name) for config in configs] == list(product(*groups))


def test_the_default_is_the_demo() -> None:
    (config,) = jobs()
    assert (config.dataset.name, config.backbone.name, config.tracker.name) == ("demo", "demo", "none")
    assert (config.k_shot, config.scales, config.results_dir) == (0, [2, 3], "results")


@pytest.mark.parametrize("dataset", ["mvtec", "visa", "folder"])
def test_a_real_dataset_comes_with_the_backbone_of_the_paper(dataset: str) -> None:
    (config,) = jobs(f"dataset={dataset}")
    assert (config.backbone.name, config.backbone.architecture) == (PAPER_BACKBONE, "ViT-B-16-plus-240")
    assert config.backbone.pretrained == "laion400m_e31"
    for order in (1, -1):
        (config,) = jobs(*[f"dataset={dataset}", "backbone=demo"][::order])
        assert config.backbone.name == "demo"


@pytest.mark.parametrize("experiment", ["zero_shot", "few_shot"])
def test_an_explicit_backbone_wins_over_an_experiment(experiment: str) -> None:
    few = (f"experiment={experiment}", "k_shot=1", "seed=0")
    assert {config.backbone.name for config in jobs(*few)} == {PAPER_BACKBONE}
    assert {config.backbone.name for config in jobs(*few, "backbone=demo")} == {"demo"}


def test_an_experiment_wins_over_the_defaults_and_the_command_line_over_both(tmp_path: Path) -> None:
    path = tmp_path / "experiment" / "mine.yaml"
    path.parent.mkdir()
    content = {"defaults": [{"override /backbone": "demo"}, {"override /prompts": "two_plain"}]}
    content |= {"k_shot": 3, "scales": [1], "runtime": {"batch_size": 9}, "protocol": {"temperature": 0.5}}
    path.write_text(f"# @package _global_\n{yaml.safe_dump(content, sort_keys=False)}")
    arguments = ("--config-dir", tmp_path, "experiment=mine", "dataset=mvtec")
    (config,) = jobs(*arguments)
    assert (config.dataset.name, config.backbone.name, config.prompts.name) == ("mvtec", "demo", "two_plain")
    assert (config.k_shot, config.scales, config.runtime.batch_size) == (3, [1], 9)
    assert config.protocol.temperature == 0.5
    (config,) = jobs(*arguments, "k_shot=1", f"backbone={PAPER_BACKBONE}", "protocol.temperature=0.1")
    assert (config.k_shot, config.backbone.name, config.protocol.temperature) == (1, PAPER_BACKBONE, 0.1)


def test_the_sweep_of_the_paper() -> None:
    configs = swept("-m", "k_shot=0,1,2,4", "dataset=mvtec,visa")
    assert {(config.k_shot, config.dataset.name) for config in configs} == set(product((0, 1, 2, 4), ("mvtec", "visa")))
    assert len(configs) == 8
    assert {config.backbone.name for config in configs} == {PAPER_BACKBONE}


def test_what_the_scripts_sweep_over() -> None:
    zero = swept(*script_arguments("zero_shot.sh"))
    assert [(config.dataset.name, config.k_shot) for config in zero] == [("mvtec", 0), ("visa", 0)]
    few = swept(*script_arguments("few_shot.sh"))
    assert {(config.dataset.name, config.k_shot, config.seed) for config in few} == set(
        product(("mvtec", "visa"), (1, 2, 4), range(5))
    )
    assert len(few) == 30
    for config in (*zero, *few):
        assert (config.backbone.name, config.protocol.name, config.prompts.name) == (PAPER_BACKBONE, "paper", "winclip")


def settings_of(config: Config) -> dict[str, object]:
    """What the experiments vary, by the names of the command line."""
    method = {f"method.{key}": str(value) for key, value in vars(config.method).items()}
    return method | {
        "dataset": config.dataset.name,
        "k_shot": config.k_shot,
        "seed": config.seed,
        "scales": tuple(config.scales),
        "prompts": config.prompts.name,
        "protocol": config.protocol.name,
    }


@pytest.mark.parametrize(
    ("experiment", "swept_over"),
    [
        ("zero_shot", {"dataset": ("mvtec", "visa"), "k_shot": (0,)}),
        ("few_shot", {"dataset": ("mvtec", "visa"), "k_shot": (1, 2, 4), "seed": range(5)}),
        (
            "accurate_winclip",
            {
                "dataset": ("mvtec", "visa"),
                "k_shot": (0, 1, 2, 4, 8),
                "seed": range(5),
                "protocol": ("accurate_winclip",),
                "prompts": ("accurate_winclip",),
            },
        ),
        (
            "prompt_ensembles",
            {"dataset": ("mvtec", "visa"), "prompts": ("normal_only", "two_plain", "states", "winclip")},
        ),
        ("scales", {"scales": ((2,), (3,), (2, 3)), "method.image_term": ("True", "False")}),
        ("image_only", {"scales": ((),)}),
        ("aggregation", {"method.aggregation": ("harmonic", "arithmetic")}),
        ("association_only", {"k_shot": (8,), "seed": range(5), "method.text_score": ("True", "False")}),
    ],
)
def test_what_the_experiments_sweep_over(experiment: str, swept_over: dict[str, Sequence[object]]) -> None:
    common: dict[str, Sequence[object]] = {
        "method.name": ("winclip",),
        "method.aggregation": ("harmonic",),
        "method.image_term": ("True",),
        "method.text_score": ("True",),
        "dataset": ("mvtec",),
        "k_shot": (0,),
        "seed": (0,),
        "scales": ((2, 3),),
        "prompts": ("winclip",),
        "protocol": ("paper",),
    }
    expected = common | swept_over
    configs = swept(f"experiment={experiment}")
    assert {config.backbone.name for config in configs} == {PAPER_BACKBONE}
    found = [{key: value for key, value in settings_of(config).items() if key in expected} for config in configs]
    combinations = {tuple(zip(expected, values, strict=True)) for values in product(*expected.values())}
    assert {tuple((key, settings[key]) for key in expected) for settings in found} == combinations
    assert len(found) == len(combinations)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_take_overrides(script: str) -> None:
    assert (REPOSITORY / script).stat().st_mode & 0o111, f"{script} cannot be executed"
    configs = jobs(*script_arguments(script), "dataset=visa", "k_shot=8", "seed=3", "results_dir=elsewhere")
    assert [(config.dataset.name, config.k_shot, config.seed) for config in configs] == [("visa", 8, 3)]
    assert configs[0].results_dir == "elsewhere"


@pytest.mark.parametrize("group", sorted({group for group, _ in OPTIONS} - {"experiment"}))
def test_every_option_has_its_own_name(group: str) -> None:
    names = {
        option: yaml.safe_load((CONF / group / f"{option}.yaml").read_text()) for g, option in OPTIONS if g == group
    }
    for option, content in names.items():
        assert content.get(group, content)["name"] == option


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("k_shots=1", "k_shots"),
        ("runtime.batchsize=8", "batchsize"),
        ("backbone.weights=x", "weights"),
        ("dataset.class_name.bolt=screw", "class_name"),
        ("tracker.modes=offline", "modes"),
        ("reference.file=a.txt", "reference"),
        ("datset=mvtec", "datset"),
        ("dataset=mvtek", "mvtek"),
        ("backbone=resnet", "resnet"),
        ("prompts=winklip", "winklip"),
        ("protocol=papers", "papers"),
        ("method=winclop", "winclop"),
        ("tracker=wand", "wand"),
        ("experiment=few_shots", "few_shots"),
        ("k_shot=two", "k_shot"),
        ("k_shot=1.5", "k_shot"),
        ("k_shot=null", "k_shot"),
        ("k_shot=", "k_shot"),
        ("seed=first", "seed"),
        ("scales=2", "scales"),
        ("scales=[2,b]", "scales"),
        ("scales=null", "scales"),
        ("force=perhaps", "force"),
        ("save_maps=5.5", "save_maps"),
        ("dataset.categories=bolt", "categories"),
        ("runtime.device=gpu", "device"),
        ("runtime.precision=fp8", "precision"),
        ("runtime.batch_size=many", "batch_size"),
        ("method.name=winclop", "name"),
        ("method.aggregation=geometric", "aggregation"),
        ("dataset.layout=coco", "layout"),
        ("protocol.resize=nearest", "resize"),
        ("protocol.non_square=crop", "non_square"),
        ("protocol.references=all", "references"),
        ("protocol.temperature=warm", "temperature"),
        ("tracker.mode=on", "mode"),
        ("k_shot=0,1", "k_shot"),  # a sweep without -m
        ("k_shot", "k_shot"),
    ],
)
def test_a_typo_fails_before_the_first_job(argument: str, named: str) -> None:
    outcome = refused("-m", "seed=0,1", argument) if "," not in argument or "[" in argument else refused(argument)
    assert named in outcome.err
    assert "Traceback" not in outcome.err


def test_a_typo_in_one_job_of_a_sweep_fails_before_the_first_job() -> None:
    assert "visaa" in refused("-m", "dataset=mvtec,visaa").err
    assert "k_shot" in refused("-m", "k_shot=0,1,two").err


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("k_shot=-1", "k_shot"),
        ("scales=[0]", "scales"),
        ("scales=[2,-3]", "scales"),
        ("runtime.batch_size=0", "runtime.batch_size"),
        ("runtime.workers=-1", "runtime.workers"),
        ("protocol.temperature=0", "protocol.temperature"),
        ("protocol.temperature=nan", "protocol.temperature"),
        ("protocol.temperature=inf", "protocol.temperature"),
        ("protocol.tile_stride=0", "protocol.tile_stride"),
        ("protocol.tile_stride=1.5", "protocol.tile_stride"),
        ("prompts.templates=[]", "prompts.templates"),
        ("prompts.normal_states=[]", "prompts.normal_states"),
        ("method.text_score=false", "method.text_score"),
        ("prompts.templates=[photo]", "prompts.templates"),
        ("prompts.normal_states=[perfect]", "prompts.normal_states"),
        ("prompts.anomalous_states=[broken]", "prompts.anomalous_states"),
    ],
)
def test_a_value_without_sense_is_named(argument: str, named: str) -> None:
    outcome = refused(argument)
    assert named in outcome.err
    assert "Traceback" not in outcome.err


def test_a_map_needs_something_to_be_made_of() -> None:
    outcome = refused("scales=[]", "method.image_term=false")
    assert "method.image_term" in outcome.err


def test_a_value_without_sense_costs_only_its_own_job_of_a_sweep(tmp_path: Path) -> None:
    with mock.patch.object(runner, "run", return_value=0) as run:
        outcome = command("-m", "k_shot=0,-1,2", f"results_dir={tmp_path}")
    assert [call.args[0].k_shot for call in run.call_args_list] == [0, 2]
    assert outcome.code != 0
    assert "k_shot=-1" in outcome.err


def test_cfg_job_shows_what_will_run() -> None:
    outcome = command("--cfg", "job", "--resolve", "dataset=visa", "k_shot=4", "dataset.root=/parts")
    assert outcome.code == 0
    shown = yaml.safe_load(outcome.out)
    (config,) = jobs("dataset=visa", "k_shot=4", "dataset.root=/parts")
    assert shown["dataset"]["root"] == config.dataset.root == "/parts"
    assert shown["backbone"]["architecture"] == config.backbone.architecture
    assert shown["k_shot"] == 4
    assert shown["prompts"]["templates"] == config.prompts.templates
    assert shown["runtime"]["cache_dir"] == config.runtime.cache_dir
    assert set(shown) == set(vars(config))


def test_help_is_given_without_running_anything() -> None:
    with mock.patch.object(runner, "run", side_effect=AssertionError):
        outcome = command("--help")
    assert outcome.code == 0
    for group in {group for group, _ in OPTIONS}:
        assert group in outcome.out


def test_class_names_take_any_category() -> None:
    (config,) = jobs('dataset.class_names.pcb1="printed circuit board"', "dataset.class_names.part_7=bolt")
    assert config.dataset.class_names == {"pcb1": "printed circuit board", "part_7": "bolt"}
    (config,) = jobs("dataset=visa", 'dataset.class_names={pcb1: "printed circuit board"}')
    assert config.dataset.class_names == {"pcb1": "printed circuit board"}


def test_lists_on_the_command_line() -> None:
    (config,) = jobs("dataset=mvtec", "dataset.categories=[screw, metal_nut]", "scales=[3,2,3]")
    assert config.dataset.categories == ["screw", "metal_nut"]
    assert config.scales == [2, 3]
    (config,) = jobs("prompts=two_plain", 'prompts.templates=["a photo of a [s]."]', "scales=[]")
    assert (config.prompts.templates, config.scales) == (["a photo of a [s]."], [])


def test_the_data_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINCLIP_BENCH_DATA", "/somewhere")
    monkeypatch.setenv("WINCLIP_BENCH_CACHE", "/cache")
    (config,) = jobs("dataset=visa")
    assert (config.dataset.root, config.runtime.cache_dir) == ("/somewhere/visa", "/cache")
