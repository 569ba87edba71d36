"""YAML from strangers: read without running anything, and without surprises."""

import re
import typing
from collections import Counter
from typing import Any

import yaml

from convmae.engine.errors import UserError

LONGEST = 100_000  # characters; a recipe has some thousands
MOST_VALUES = 20_000  # with what aliases repeat counted each time


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as a number and a date as text; it refuses a key given twice and a list within itself."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        return super().construct_object(node, deep=True)  # or what an alias puts into itself would be taken

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        doubled = sorted(key for key, count in keys.items() if count > 1)
        if doubled:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {doubled[0]!r} stands there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)|[0-9][0-9_]*\.[0-9_]*|\.[0-9_]+(?:[eE][-+]?[0-9]+)?)$"
    ),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads back as it was."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = _Loader.yaml_implicit_resolvers


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Quoted as usual what YAML takes for the end of a line would be read as one of another kind.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _write_text)


def write_yaml(content: Any) -> str:
    """Returns plain containers as a text that ``parse_yaml`` reads back."""
    return yaml.dump(content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def parse_yaml(text: str, source: str) -> Any:
    """Returns what a text holds, in plain containers. Raises UserError, naming its ``source``, for what is not YAML.

    So it does for a text that no recipe is as long as, and for one that aliases make as large: ten lines can say 10^9 values.
    """
    if len(text) > LONGEST:
        raise UserError(f"{source} has {len(text):,} characters; expected a recipe, {LONGEST:,} at most.")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        values = 0 if node is None else _count(node, {})
        if values > MOST_VALUES:
            raise UserError(f"{source} comes to {values:,} values; expected a recipe, {MOST_VALUES:,} at most.")
        return None if node is None else loader.construct_document(node)
    except (
        yaml.YAMLError,
        ValueError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:  # as PyYAML has them for bad tags
        raise UserError(f"{source} is not readable YAML: {one_line(error)}.") from None


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Returns the number of values below a node, those of an alias as often as it stands there."""
    if id(node) not in known:
        known[id(node)] = 1  # while it is counted: a list within itself is refused when it is built
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_count(one, known) for one in flat)
    return known[id(node)]


def one_line(error: object) -> str:
    """Returns a library's message without its line breaks and its last full stop."""
    return re.sub(r"\s+", " ", str(error).split("\n    full_key")[0]).strip().rstrip(".")
