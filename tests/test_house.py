"""The house as CONTRIBUTING.md draws it: which line may import from which, how large files and rooms may be."""

import ast
import configparser
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from convmae.tools import cli

PROJECT = Path(__file__).resolve().parents[1]
TASKS = ("pretraining", "classification", "detection", "segmentation")
LINES, FILES = 350, 16
TYPED = (
    "tools",
    "configs",
)  # whose files are what users type, by names that are promised: their number is not ours to choose
CODE = sorted(
    path.relative_to(PROJECT).with_suffix("").as_posix()
    for package in ("api", "backbones", *TASKS, "reports", "engine", "benchmarks", "studies", "configs", "zoo", "tools")
    for path in (PROJECT / package).rglob("*.py")
)


def picture() -> dict[str, int]:
    """The number of its line, from the top, for each file and room in the picture."""
    block = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```\ntools ")[1].split("```")[0]
    rows = f"tools {block}".splitlines()
    head = next(number for number, row in enumerate(rows) if row.split() == list(TASKS))
    starts = [rows[head].index(task) for task in TASKS]
    found: dict[str, int] = {}
    for number, row in enumerate(rows):
        if row.startswith(" "):
            for task, start, end in zip(TASKS, starts, [*starts[1:], None], strict=True):
                found |= {f"{task}/{name}": number for name in row[start:end].split()}
        elif number != head:
            found |= {name: number for name in re.split("  +", row) if name and " " not in name}
    return found


def line_of(module: str, lines: Mapping[str, int]) -> int:
    """The line that a module stands on: its own, else that of the innermost room that is drawn."""
    parts = module.split("/")
    drawn = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    found = next((lines[name] for name in drawn if name in lines), None)
    assert found is not None, f"{module}.py stands on no line of CONTRIBUTING.md's picture"
    return found


def imported(module: str) -> Iterator[tuple[str, bool]]:
    """The project's modules that one imports, and whether it runs them; of a package those that its __init__ reads."""
    tree = ast.parse((PROJECT / f"{module}.py").read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{module}.py imports by dots; expected the whole name, convmae.…")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "convmae":
            base = (node.module or "").split(".")[1:]
            names = [[*base, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".")[1:] for alias in node.names if alias.name.startswith("convmae.")]
        else:
            continue
        for name in names:
            whole, above = "/".join(name), "/".join(name[:-1])
            places = (whole, f"{whole}/__init__", above, f"{above}/__init__")
            target = next(path for place in places for path in (place, f"api/{place.lstrip('/')}") if path in CODE)
            if target.endswith("__init__"):
                yield from ((inner, id(node) not in for_types) for inner, _ in imported(target))
            else:
                yield target, id(node) not in for_types


MODULES = [module for module in CODE if not module.endswith("__init__")]
IMPORTS = {module: dict(imported(module)) for module in MODULES}


def test_a_module_imports_from_its_line_and_below() -> None:
    lines = picture()
    for module, names in IMPORTS.items():
        above = [name for name in names if line_of(name, lines) < line_of(module, lines)]
        assert not above, f"{module}.py imports {above}, which CONTRIBUTING.md draws above it"


def test_tasks_do_not_import_one_another() -> None:
    for module in MODULES:
        task, *_ = module.split("/")
        others = {name.split("/")[0] for name in IMPORTS[module]} & set(TASKS) - {task}
        assert task not in TASKS or not others, module


def test_no_modules_import_each_other_in_a_circle() -> None:
    waiting = {module: {name for name, runs in names.items() if runs} for module, names in IMPORTS.items()}
    while free := [module for module, names in waiting.items() if not names & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting


def test_encoders_need_neither_runner_nor_configuration() -> None:
    heavy = {"mmengine", "mmseg", "mmcv", "omegaconf", "torchvision", "matplotlib", "cv2", "pycocotools"}
    for module in MODULES:
        if module.startswith("backbones/"):
            tree = ast.parse((PROJECT / f"{module}.py").read_text(encoding="utf-8"))
            named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not {name.split(".")[0] for name in named} & heavy, module


def test_the_picture_draws_what_is_there() -> None:
    for name in picture():
        assert (PROJECT / name).is_dir() or (PROJECT / f"{name}.py").is_file(), name


def test_documents_name_files_that_are_there() -> None:
    for document in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")):
        if document.name != "CHANGELOG.md":  # which tells of what was
            for name in re.findall(r"`((?:[a-z]\w*/)+\w+\.py)`", document.read_text(encoding="utf-8")):
                assert (PROJECT / name).is_file() or name == "tools/test.py", f"{document.name}: {name}"  # mmseg's own


def test_documents_have_no_gap_that_was_to_be_filled() -> None:
    for document in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")):
        for line in document.read_text(encoding="utf-8").splitlines():
            assert not re.fullmatch(r"[A-Z_]{4,}|TODO.*", line.strip()), f"{document.name}: {line}"


def test_tables_of_documents_are_tables() -> None:
    """A blank line within one makes text of the rows after it."""
    for path in (*PROJECT.glob("*.md"), *PROJECT.glob("*/*.md")):
        lines = path.read_text(encoding="utf-8").splitlines()
        heads = [n for n, line in enumerate(lines) if line.startswith("|") and not lines[n - 1].startswith("|")]
        torn = [lines[n] for n in heads if not re.match(r"\|( :?---+:? \|)+$", (lines[n + 1 :] or [""])[0])]
        assert not torn, f"{path}: {torn}"


def test_names_that_others_rely_on_are_where_they_were() -> None:
    from convmae.backbones import ConvViT, ConvViTDet, ConvViTSeg, load_checkpoint
    from convmae.pretraining import ConvMAE, FastConvMAE
    from convmae.segmentation.backbone import ConvViTSeg as ForMMSeg

    classes = (ConvViT, ConvViTDet, ConvViTSeg, ConvMAE, FastConvMAE, ForMMSeg)
    assert all(isinstance(kind, type) for kind in classes)
    assert callable(load_checkpoint)


def test_files_and_rooms_can_be_taken_in() -> None:
    for module in [*CODE, *(path.relative_to(PROJECT).with_suffix("") for path in PROJECT.glob("tests/**/*.py"))]:
        lines = (PROJECT / f"{module}.py").read_text(encoding="utf-8").count("\n")
        assert lines <= LINES, f"{module}.py has {lines} lines"
    rooms = {(PROJECT / module).parent for module in CODE} | {path.parent for path in PROJECT.glob("tests/**/*.py")}
    for room in rooms:
        count = sum(path.is_file() for path in room.iterdir())
        assert count <= FILES or room.relative_to(PROJECT).as_posix() in TYPED, f"{room} has {count} files"


def test_tools_holds_the_tools() -> None:
    scripts = {path.stem for path in (PROJECT / "tools").glob("*.py")}
    assert scripts == {*cli.TOOLS, "cli", "starting", "__init__"}


def test_every_room_is_installed() -> None:
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg", encoding="utf-8")
    rooms = {Path(module).parent.as_posix().replace("/", ".") for module in CODE}
    names = {"convmae" if room == "api" else f"convmae.{room}" for room in rooms}
    assert set(setup["options"]["packages"].split()) == names


def test_tests_mirror_the_rooms() -> None:
    rooms = {Path(module).parent.as_posix() for module in CODE}
    own = {".", "gpu", "soak"}  # what serves all tests, what needs a GPU, what takes an hour
    for path in (PROJECT / "tests").rglob("*.py"):
        assert path.parent.relative_to(PROJECT / "tests").as_posix() in rooms | own, path
