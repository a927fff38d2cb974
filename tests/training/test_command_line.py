"""Options typed, from a file, both, or wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

from hf_emktd.training import DistillationArguments, parse_arguments

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@dataclass
class Colours:
    """What the tests parse."""

    shade: str | None = field(default="red", metadata={"help": "One colour, 100 %% of it."})
    shares: list[float] = field(default_factory=lambda: [0.5], metadata={"help": "Several numbers."})
    count: int = field(default=1, metadata={"help": "A whole number."})
    bright: bool = field(default=True, metadata={"help": "Yes or no."})
    recipe: dict | str | None = field(default=None, metadata={"help": "JSON."})

    def __post_init__(self):
        if self.count < 0:
            raise ValueError(f"count must not be\nnegative, got {self.count}.")


@dataclass
class Names:
    first_name: str = field(default="x", metadata={"help": "A second dataclass."})


@dataclass
class Paths:
    clips: list[str] = field(default_factory=list, metadata={"help": "Paths."})
    top: int = field(default=5, metadata={"help": "A number."})


def parse(*arguments, types=(Colours, Names)):
    return parse_arguments(types, "What the script does.", list(arguments))


@pytest.fixture
def config(tmp_path):
    def write(content, name="run.yaml"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return f"--config={path}"

    return write


@pytest.fixture
def refusal(capsys):
    """The one line with which a command line is refused."""

    def run(*arguments, **kwargs):
        with pytest.raises(SystemExit) as ended:
            parse(*arguments, **kwargs)
        assert ended.value.code == 2
        output = capsys.readouterr()
        assert output.out == "" and output.err.count("\n") == 1 and "Traceback" not in output.err
        return output.err

    return run


class TestTyped:
    def test_defaults(self):
        assert parse() == (Colours(), Names())

    def test_values(self):
        colours, names = parse("--shade", "blue", "--shares", "1", "2.5", "--bright", "false", "--first_name=y")
        assert colours == Colours(shade="blue", shares=[1.0, 2.5], bright=False)
        assert names == Names("y")

    def test_what_comes_without_an_option(self, config):
        def clips(*arguments):
            return parse_arguments((Paths,), None, list(arguments), positional="clips")[0].clips

        assert clips("a.mp4", "b.mp4", "--top", "3") == clips("--top", "3", "a.mp4", "b.mp4") == ["a.mp4", "b.mp4"]
        assert clips(config("clips: [c.mp4]\n")) == ["c.mp4"]
        assert clips("a.mp4", config("clips: [c.mp4]\n")) == ["a.mp4"]

    def test_one_dataclass_is_still_a_tuple(self):
        assert parse(types=(Names,)) == (Names(),)


class TestFile:
    def test_yaml(self, config):
        file = config("shade: blue\nshares: [1, 2.5]\ncount: 7\nbright: no\nfirst_name: y\nrecipe: {a: [1]}\n")
        colours, names = parse(file)
        assert colours == Colours("blue", [1.0, 2.5], 7, False, '{"a": [1]}')
        assert names == Names("y")

    def test_json(self, config):
        assert parse(config({"count": 3, "shade": None}, "run.json"))[0] == Colours(shade=None, count=3)

    def test_one_value_for_a_list(self, config):
        """Without the way through the command line's checks, a text would be taken letter by letter."""
        (args,) = parse_arguments(
            (DistillationArguments,), None, [config("objective: ktd\nuse_cpu: true\nlearning_rate: 1e-4\n")]
        )
        assert (args.objective, args.learning_rate, args.use_cpu) == (["ktd"], 1e-4, True)

    def test_the_command_line_wins(self, config):
        file = config("count: 7\nshares: [1, 2]\nshade: blue\nbright: false\n")
        for arguments in ((file, "--count", "9", "--shares", "3"), ("--count", "9", "--shares", "3", file)):
            assert parse(*arguments)[0] == Colours("blue", [3.0], 9, False)
        assert parse(file, "--shade", "green", "--bright")[0] == Colours("green", [1.0, 2.0], 7, True)

    def test_text_that_looks_like_an_option(self, config):
        assert parse(config('shade: "--count"\n'))[0].shade == "--count"


class TestRefused:
    def test_unknown_option(self, refusal):
        assert "error: unknown options: --size, 3 (see --help)" in refusal("--size", "3")

    def test_a_slip_of_the_pen(self, refusal):
        assert "unknown options: --share=2 (did you mean --shares?)" in refusal("--share=2")
        assert "--hub_tokn=hf_..., hf_... (see" in refusal("--hub_tokn=hf_secret", "hf_secret")
        assert "--first-nam (did you mean --first_name?)" in refusal("--first-nam", "y")

    def test_wrong_type(self, refusal):
        assert "argument --count: invalid int value: 'many'" in refusal("--count", "many")

    def test_wrong_value(self, refusal):
        assert "error: count must not be negative, got -1. (see --help)" in refusal("--count", "-1")

    @pytest.mark.parametrize(
        "content, message",
        [
            ("size: 3\n", "has unknown options size"),
            ("shad: blue\n", "shad (did you mean shade?)"),
            ("count: many\n", "argument --count: invalid int value: 'many'"),
            ("count: [1, 2]\n", "unknown options: 2"),
            ("bright: perhaps\n", "argument --bright: Truthy value expected: got perhaps"),
            ("- count\n", "must hold option names and values, got list"),
            ("count: [1\n", "is neither YAML nor JSON"),
            ("", "must hold option names and values, got NoneType"),
        ],
    )
    def test_wrong_file(self, refusal, config, content, message):
        assert message.replace("has unknown options", "unknown options:") in refusal(config(content))

    def test_missing_file(self, refusal):
        assert "--config: there is no file nowhere.yaml" in refusal("--config", "nowhere.yaml")
        assert "expected one argument" in refusal("--config")

    def test_what_dataclasses_of_runs_refuse(self, refusal):
        types = (DistillationArguments,)
        assert "unknown name 'cubic'" in refusal("--use_cpu", "--ktd_kernel", "cubic", types=types)
        assert "stairs" in refusal("--use_cpu", "--lr_scheduler_type", "stairs", types=types)
        assert "nowhere.json" in refusal("--use_cpu", "--fsdp", "--fsdp_config", "nowhere.json", types=types)


class TestHelp:
    def test_every_option_with_its_default(self, capsys):
        with pytest.raises(SystemExit) as ended:
            parse("--help")
        text = capsys.readouterr().out
        assert ended.value.code == 0 and "What the script does." in text
        assert "One colour, 100 % of it. (default: red)" in text and "--config FILE" in text

    @pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.py")))
    def test_every_script(self, name, capsys, monkeypatch):
        spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
        types = []

        def parse_and_tell(dataclass_types, *rest, **options):
            types.extend(dataclass_types)
            return parse_arguments(dataclass_types, *rest, **options)

        if hasattr(module, "parse_arguments"):
            monkeypatch.setattr(module, "parse_arguments", parse_and_tell)
        with pytest.raises(SystemExit) as ended:
            module.main()
        text = capsys.readouterr().out
        assert ended.value.code == 0
        assert f"scripts/{name}.py" in text or name == "quickstart"
        words = set(text.replace(",", " ").split())
        for dataclass_type in types:
            assert dataclass_type.__name__ and all(f"--{option.name}" in words for option in fields(dataclass_type))
            assert all(option.metadata.get("help") for option in fields(dataclass_type)), dataclass_type
