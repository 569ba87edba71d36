"""Recipes are read strictly: a mistake is named, with what was probably meant."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from names import NASTY

from convmae.engine.config import describe, differing_options, load_config, option, run_config, save_config
from convmae.engine.errors import UserError
from convmae.engine.files import save_weights
from convmae.engine.options import DataOptions, OptimOptions, ScheduleOptions
from convmae.engine.recipes import find_recipe, shipped_recipes


@dataclass
class Small:
    optim: OptimOptions = field(default_factory=OptimOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    name: str = option("a", "a name", ("a", "b"))
    init: str = option("x", "a file")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "no option 'optim.lrr'. Did you mean 'lr'"),
        ("optim.warmup=1", "no option 'optim.warmup'. Did you mean 'schedule.warmup'"),
        ("optm.lr=1", "no option 'optm'. Did you mean 'optim'"),
        ("optim.lr=" + 400 * "1", "int too large to convert to float"),
        ("optim.lr=abc", "'abc' of type 'str' could not be converted to Float"),
        ("optim.lr=-1", "optim.lr is -1; expected at least 0"),
        ("optim.layer_decay=2", "expected from 0 to 1"),
        ("schedule.steps=1.5", "could not be converted to Integer"),
        ("schedule.policy=cosin", "expected one of cosine, poly, step, constant. Did you mean 'cosine'"),
        ("schedule=3", "schedule"),
        ("epochs", "takes key=value"),
        ("optim..lr=1", "takes key=value"),
        (".name=a", "takes key=value"),
        ("name.a=b", "name.a=b (name): Cannot convert"),
        ("schedule.milestones.a=b", "schedule.milestones.a=b"),
        ("optim.lr=[", "is not readable YAML"),
        ("optim.lr=!!bool x", "is not readable YAML"),
        ("optim.lr=2024-05-01", "'2024-05-01' of type 'str' could not be converted to Float"),
        ("optim.betas=[0.9]", "optim.betas is [0.9]; expected 2 numbers"),
        ("optim.betas=[0.9, 0.95, 0.99]", "expected 2 numbers"),
        ("init=${oc.env:HOME}", "found '${oc.env:HOME}'; expected the value itself"),
        ("init='${name}'", "expected the value itself"),
        ("name=${", "expected the value itself"),
        ("init=???", "expected the value itself"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(Small, None, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_values_are_read_as_a_person_means_them() -> None:
    config = load_config(Small, None, ["optim.lr=1e-4", "schedule.epochs=3", "schedule.milestones=[1, 2.5]"])
    assert (config.optim.lr, config.schedule.epochs, config.schedule.milestones) == (1e-4, 3.0, [1.0, 2.5])
    assert load_config(Small, None, ["schedule.epochs=null"]).schedule.epochs is None
    assert load_config(Small, None, ["init="]).init == ""


@pytest.mark.parametrize("text", ["2024-05-01", "2024_01", "1e3", "yes", "[a", "a: b", "a=b", "#1", "*"])
def test_a_text_is_taken_as_it_stands(text: str, tmp_path: Path) -> None:
    config = load_config(Small, None, [f"init={text}"])
    assert config.init == text
    assert load_config(Small, None, [f"init='{text}'"]) == config
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Small, tmp_path / "config.yaml") == config


@pytest.mark.parametrize("text", ["a\x85b", "\u2028", "a \u2029b"])
def test_what_yaml_takes_for_the_end_of_a_line_is_kept(text: str, tmp_path: Path) -> None:
    config = load_config(Small, None, [f"init={text}"])
    assert config.init == text
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Small, tmp_path / "config.yaml") == config


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    (tmp_path / "a.yaml").write_text("init: ~/a.pth\n")
    assert load_config(Small, tmp_path / "a.yaml").init == "/home/someone/a.pth"
    assert load_config(Small, None, ["init=~/a.pth"]).init == "/home/someone/a.pth"


def test_a_date_in_a_recipe_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("init: 2024-05-01\n")
    assert load_config(Small, tmp_path / "a.yaml").init == "2024-05-01"


def test_bases_are_merged_and_the_nearer_file_wins(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("optim: {lr: 1e-3, weight_decay: 0.1}\nname: b\n")
    (tmp_path / "b.yaml").write_text("_base_: a.yaml\noptim: {lr: 2e-3}\n")
    config = load_config(Small, tmp_path / "b.yaml", ["schedule.steps=5"])
    assert (config.optim.lr, config.optim.weight_decay, config.name, config.schedule.steps) == (2e-3, 0.1, "b", 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_base_: self.yaml", "leads back to itself"),
        ("- a\n- b", "found a list"),
        ("a: [", "not readable YAML"),
        ("a: &a [*a]", "recursive"),
        ("init: ${oc.env:HOME}", "expected the value itself"),
        ('init: "\\x24{oc.env:HOME}"', "expected the value itself"),
        ("optim: {betas: [0.9]}", "expected 2 numbers"),
        ("_base_: 3", "_base_ is 3; expected the name of a recipe"),
        ("_base_: [null]", "expected the name of a recipe"),
        ("_base_: ", "expected the name of a recipe"),
        ("name: a\nname: b", "stands there twice"),
        ("x: !!python/object/apply:os.system ['true']", "not readable YAML"),
        ("_base_: nowhere.yaml", "No recipe 'nowhere.yaml'"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "self.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(Small, tmp_path / "self.yaml")


DOUBLED = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
ALIASED_KEYS = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{l: *a{n - 1}, r: *a{n - 1}}}\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DOUBLED, r"comes to [\d,]{16,} values"),
        (ALIASED_KEYS, r"comes to [\d,]{16,} values"),
        ("\n".join(f"key{n}: {n}" for n in range(60_000)), "characters; expected a recipe"),
        ("\n".join(f"k{n}: 1" for n in range(3000)), "there is no option"),
        ("a: " + "[" * 1000 + "]" * 1000, "not readable YAML"),
    ],
)
def test_a_recipe_that_grows_without_end_is_refused_at_once(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text(text)
    started = time.process_time()
    with pytest.raises(UserError, match=message):
        load_config(Small, tmp_path / "large.yaml")
    assert time.process_time() - started < 20  # of hours


def test_bases_that_are_named_again_and_again_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "b0.yaml").write_text("name: b\n")
    for n in range(1, 26):
        (tmp_path / f"b{n}.yaml").write_text(f"_base_: [b{n - 1}.yaml, b{n - 1}.yaml]\noptim: {{lr: {n}e-3}}\n")
    config = load_config(Small, tmp_path / "b25.yaml")
    assert (config.name, config.optim.lr) == ("b", 25e-3)
    for n in range(26, 40):
        (tmp_path / f"b{n}.yaml").write_text(f"_base_: b{n - 1}.yaml\n")
    with pytest.raises(UserError, match="recipes on top of each other"):
        load_config(Small, tmp_path / "b39.yaml")


def test_links_that_lead_to_themselves_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("a.yaml")
    with pytest.raises(UserError, match=r"No recipe .*a\.yaml"):
        load_config(Small, tmp_path / "a.yaml")
    with pytest.raises(UserError, match=r"a\.yaml can't be read: Too many levels"):
        differing_options(load_config(Small, None), tmp_path / "a.yaml")


def test_an_option_that_an_older_file_lacks_was_at_its_default(tmp_path: Path) -> None:
    save_config(load_config(Small, None), tmp_path / "new.yaml")
    lines = (tmp_path / "new.yaml").read_text().splitlines()
    leaf = next(number for number, line in enumerate(lines) if not line.endswith(":"))
    name = lines[leaf].strip().split(":")[0]
    (tmp_path / "old.yaml").write_text("\n".join(lines[:leaf] + lines[leaf + 1 :]) + "\n")
    assert differing_options(tmp_path / "old.yaml", load_config(Small, None)) == [], name


def test_a_tree_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    config = load_config(Small, None, ["optim.lr=1e-5", "schedule.milestones=[1, 2]", "name=b"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Small, tmp_path / "config.yaml") == config


def test_help_names_every_option() -> None:
    text = describe(load_config(Small, None, ["name=b", "schedule.milestones=[1, 2]"]))
    assert "  optim.layer_decay=1.0 (float): factor" in text
    assert "  name=b (a|b): a name" in text
    assert "  schedule.milestones=[1.0, 2.0] (list of float): where" in text
    assert "  schedule.steps=null (int or null): length" in text


def test_a_shipped_recipe_is_found_by_its_name() -> None:
    assert find_recipe("fastconvmae_base_50e.yaml").name in shipped_recipes()
    assert find_recipe("fastconvmae_base_50e").samefile(find_recipe("fastconvmae_base_50e.yaml"))
    assert find_recipe("configs/fastconvmae_base_50e.yaml").name == "fastconvmae_base_50e.yaml"
    with pytest.raises(UserError, match="Did you mean fastconvmae_base_50e"):
        find_recipe("fastconvmae_bse_50e.yaml")


def test_a_checkpoint_tells_its_recipe_by_what_it_holds_or_by_the_file_beside_it(tmp_path: Path) -> None:
    path = save_weights({"a": torch.ones(1)}, tmp_path / "model.pth", "optim:\n  lr: 0.25\n")
    assert run_config(Small, path).optim.lr == 0.25
    assert run_config(Small, path, overrides=["optim.lr=0.5"]).optim.lr == 0.5
    other, beside = tmp_path / "other.yaml", tmp_path / "config.yaml"
    other.write_text("name: b\n")
    beside.write_text("optim:\n  lr: 0.75\n")
    assert run_config(Small, path).optim.lr == 0.25
    assert run_config(Small, path, str(other)).name == "b"
    path = save_weights({"a": torch.ones(1)}, tmp_path / "step_9.pth")
    assert run_config(Small, path).optim.lr == 0.75
    beside.write_text("fpn_channels: 64\n")
    with pytest.raises(
        UserError, match=r"no option 'fpn_channels'.*config\.yaml, of the run that wrote the checkpoint"
    ):
        run_config(Small, path)


def test_a_checkpoint_without_a_recipe_takes_the_default_or_is_refused(tmp_path: Path) -> None:
    bare, text = save_weights({"a": torch.ones(1)}, tmp_path / "bare.safetensors"), tmp_path / "text.pth"
    text.write_text("no weights")
    default = tmp_path / "default.yaml"
    default.write_text("name: b\n")
    for path in (bare, text):
        assert run_config(Small, path, default=str(default)).name == "b"
        with pytest.raises(UserError, match=r"does not say what model it is of.*--config"):
            run_config(Small, path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_recipe_is_read_as_its_mark_says(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "own.yaml").write_bytes("init: 行人/für\r\noptim:\r\n  lr: 0.5\r\n".encode(encoding))
    config = load_config(Small, tmp_path / "own.yaml")
    assert (config.init, config.optim.lr) == ("行人/für", 0.5)


def test_a_recipe_in_another_encoding_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_bytes("init: für\n".encode("latin-1"))
    with pytest.raises(
        UserError, match=r"own\.yaml is no UTF-8 text \(invalid start byte at byte 7\); save it as UTF-8"
    ):
        load_config(Small, tmp_path / "own.yaml")


@pytest.mark.parametrize("name", [name for name in NASTY if name])
def test_a_path_of_any_name_is_kept_by_a_runs_recipe(tmp_path: Path, name: str) -> None:
    config = load_config(Small, None)
    config.init = name
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Small, tmp_path / "config.yaml").init == name


@dataclass
class Loading:
    data: DataOptions = field(default_factory=DataOptions)


@pytest.mark.parametrize(("given", "found"), [("auto", "auto"), ("0", 0), ("3", 3), ("'auto'", "auto")])
def test_a_number_or_a_word(given: str, found: int | str, tmp_path: Path) -> None:
    config = load_config(Loading, None, [f"data.workers={given}"])
    assert config.data.workers == found
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Loading, tmp_path / "config.yaml") == config
    assert load_config(Loading, tmp_path / "config.yaml", ["data.workers=7"]).data.workers == 7
    assert "data.workers=auto (int|auto)" in describe(Loading())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("-1", "data.workers is -1; expected at least 0"),
        ("two", "data.workers is 'two'; expected one of auto, or a whole number of at least 0"),
        ("aut", "Did you mean 'auto'"),
        ("2.5", "Value '2.5' of type 'float' is incompatible"),
        ("null", "Value 'None' is incompatible"),
        ("true", "Value 'True' of type 'bool' is incompatible"),
        ("", "data.workers is ''; expected one of auto"),
    ],
)
def test_neither_the_word_nor_a_number(given: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(Loading, None, [f"data.workers={given}"])
    assert message in str(error.value)
