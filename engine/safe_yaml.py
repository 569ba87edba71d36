"""YAML from strangers: read without running anything, and without surprises."""

import re
import typing
from typing import Any

import yaml

from convmae.engine.errors import UserError


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as a number and a date as text; it refuses a key given twice and a list within itself."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        return super().construct_object(node, deep=True)  # or what an alias puts into itself would be taken

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        doubled = sorted({key for key in keys if keys.count(key) > 1})
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


def parse_yaml(text: str, source: str) -> Any:
    """Returns what a text holds, in plain containers. Raises UserError, naming its ``source``, for what is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (
        yaml.YAMLError,
        ValueError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:  # as PyYAML has them for bad tags
        raise UserError(f"{source} is not readable YAML: {one_line(error)}.") from None


def one_line(error: object) -> str:
    """Returns a library's message without its line breaks and its last full stop."""
    return re.sub(r"\s+", " ", str(error).split("\n    full_key")[0]).strip().rstrip(".")
