"""Write `run.py` and `.cog/openapi_schema.json`: `python -m animatediff_cog.schema`, `--check` to only compare.

`run.py` gets its inputs from the options of AnimateDiff, and the schema is read off `run.py` as Cog's own command line
does when it builds an image: from literals in the signature alone, without running it.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from animatediff.errors import UserError

from .inputs import CogInput
from .request import Reader
from .settings import HERE, read_settings

COG_VERSION = "0.23.1"
"""Release whose form of the schema this is."""
SCHEMA = Path(".cog/openapi_schema.json")
HEAD = '''"""The model as Cog runs it. Written by `python -m animatediff_cog.schema`; not to be edited."""

# ruff: noqa: B008, E501, N803
from animatediff_cog.deployed import deployed
from cog import BaseRunner, Input, Path


class Runner(BaseRunner):
    """AnimateDiff: clips from texts, images and videos."""

    def setup(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make the renderer, which keeps its models between predictions, and load the first one."""
        self.rendering = deployed()

    # fmt: off
    def run(
        self,
'''
TAIL = '''    ) -> Path:
        """Render one clip."""
        given = dict(locals())
        del given["self"]
        return Path(self.rendering.render(given, self.record_metric))
'''


def inputs_of(folder: Path = HERE) -> list[CogInput]:
    """Every input of a deployment."""
    return list(Reader(read_settings(folder)).inputs.values())


def run_text(inputs: list[CogInput]) -> str:
    """The text of `run.py`."""
    return HEAD + "".join(f"        {_parameter(item)},\n" for item in inputs) + TAIL


def _parameter(item: CogInput) -> str:
    arguments: dict[str, Any] = {} if item.required else {"default": item.default}
    arguments["description"] = item.description
    for name in ("ge", "le", "choices", "accept"):
        if (value := getattr(item, name)) is not None:
            arguments[name] = list(value) if isinstance(value, tuple) else value
    if item.deprecated:
        arguments["deprecated"] = True
    return f"{item.name}: {item.annotation} = Input({', '.join(f'{k}={_literal(v)}' for k, v in arguments.items())})"


def _literal(value: Any) -> str:
    """A value as Cog's command line reads it: strings in one piece, without escapes."""
    if isinstance(value, str):
        if not value.isprintable() or "\\" in value or '"' in value:
            raise UserError(f"{value!r}: Cog reads no text with quotes, backslashes or line ends")
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)


# -- the schema --------------------------------------------------------------------------------------------------------

_PRIMITIVES = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "Path": {"type": "string", "format": "uri"},
}
_BOUNDS = {"ge": "minimum", "le": "maximum", "accept": "x-cog-accept"}


def schema_of(source: str) -> dict[str, Any]:
    """The OpenAPI description that Cog's server reads, for the text of a `run.py`."""
    properties: dict[str, Any] = {}
    enums: dict[str, Any] = {}
    required = []
    for order, (name, annotation, arguments) in enumerate(_parameters(source)):
        kind = annotation.removesuffix(" | None")
        nullable = kind != annotation
        field: dict[str, Any] = {"x-order": order}
        if choices := arguments.get("choices"):
            enums[name] = {"title": name, "description": "An enumeration.", "enum": choices, **_PRIMITIVES[kind]}
            field["allOf"] = [{"$ref": f"#/components/schemas/{name}"}]
        else:
            element = kind.removeprefix("list[").removesuffix("]")
            many = element != kind
            field["title"] = " ".join(part[:1].upper() + part[1:] for part in name.split("_"))
            field |= {"type": "array", "items": _PRIMITIVES[element]} if many else _PRIMITIVES[element]
        if "default" in arguments:
            field["default"] = arguments["default"]
        else:
            required.append(name)
        field |= {"nullable": True} if nullable else {}
        field["description"] = arguments["description"]
        field |= {ours: arguments[theirs] for theirs, ours in _BOUNDS.items() if theirs in arguments}
        field |= {"deprecated": True} if arguments.get("deprecated") else {}
        properties[name] = field
    own = {"title": "Input", "type": "object", "properties": properties, "required": required}
    return _document({"Input": own, "Output": {"title": "Output", **_PRIMITIVES["Path"]}, **enums})


def _parameters(source: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, annotation and arguments of `Input(...)` of each parameter of `Runner.run`."""
    run = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "run")
    parameters = run.args.args[1:]
    for parameter, call in zip(parameters, run.args.defaults, strict=True):
        assert isinstance(call, ast.Call) and parameter.annotation is not None
        arguments = {str(item.arg): ast.literal_eval(item.value) for item in call.keywords}
        yield parameter.arg, ast.unparse(parameter.annotation), arguments


def _document(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The whole document: what Cog's server answers to, and these schemas."""
    text, moment = {"type": "string"}, {"type": "string", "format": "date-time"}
    reference = {"$ref": "#/components/schemas/Input"}
    response = {
        "input": reference,
        "output": {"$ref": "#/components/schemas/Output"},
        "id": {"title": "Id", **text},
        "version": {"title": "Version", **text},
        "created_at": {"title": "Created At", **moment},
        "started_at": {"title": "Started At", **moment},
        "completed_at": {"title": "Completed At", **moment},
        "status": {"title": "Status", **text},
        "error": {"title": "Error", **text},
        "logs": {"title": "Logs", **text},
        "metrics": {"title": "Metrics", "type": "object"},
    }
    location = {"title": "Location", "type": "array", "items": {"anyOf": [text, {"type": "integer"}]}}
    problem = {
        "loc": location,
        "msg": {"title": "Message", **text},
        "type": {"title": "Error Type", **text},
    }
    problems = {"title": "Detail", "type": "array", "items": {"$ref": "#/components/schemas/ValidationError"}}
    states = ["starting", "processing", "succeeded", "canceled", "failed"]
    components = {
        **schemas,
        "PredictionRequest": _object("PredictionRequest", {"id": {"title": "Id", **text}, "input": reference}),
        "PredictionResponse": _object("PredictionResponse", response),
        "Status": {"title": "Status", "description": "An enumeration.", "enum": states, **text},
        "HTTPValidationError": _object("HTTPValidationError", {"detail": problems}),
        "ValidationError": {**_object("ValidationError", problem), "required": list(problem)},
    }
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": COG_VERSION},
        "paths": _paths(),
        "components": {"schemas": components},
    }


def _object(title: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"title": title, "type": "object", "properties": dict(properties)}


def _content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": dict(schema)}}}


def _paths() -> dict[str, Any]:
    """Routes of the server."""

    def reply(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        return {"description": description, **_content(schema)}

    anything = {"200": reply("Successful Response", {})}
    refused = {"422": reply("Validation Error", {"$ref": "#/components/schemas/HTTPValidationError"})}
    done = {"200": reply("Successful Response", {"$ref": "#/components/schemas/PredictionResponse"})}
    of_id = {
        "required": True,
        "schema": {"title": "Prediction Id", "type": "string"},
        "name": "prediction_id",
        "in": "path",
    }
    return {
        "/": {"get": {"summary": "Root", "operationId": "root__get", "responses": anything}},
        "/health-check": {
            "get": {"summary": "Healthcheck", "operationId": "healthcheck_health_check_get", "responses": anything}
        },
        "/predictions": {
            "post": {
                "summary": "Predict",
                "description": "Run a single prediction on the model",
                "operationId": "predict_predictions_post",
                "requestBody": _content({"$ref": "#/components/schemas/PredictionRequest"}),
                "responses": done | refused,
            }
        },
        "/predictions/{prediction_id}/cancel": {
            "post": {
                "summary": "Cancel",
                "operationId": "cancel_predictions__prediction_id__cancel_post",
                "parameters": [of_id],
                "responses": anything | refused,
            }
        },
    }


# -- the command -------------------------------------------------------------------------------------------------------


def files_of(folder: Path = HERE) -> dict[Path, str]:
    """The two files of a deployment with what belongs into them."""
    text = run_text(inputs_of(folder))
    schema = json.dumps(schema_of(text), indent=1, ensure_ascii=False)
    return {folder / "run.py": text, folder / SCHEMA: schema + "\n"}


def stale(folder: Path = HERE) -> list[str]:
    """Names of the files that do not say what they should."""
    return [
        path.relative_to(folder).as_posix()
        for path, text in files_of(folder).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def main() -> None:
    """Write the files; with `--check`, exit code 1 where they are not what they should be."""
    try:
        if "--check" in sys.argv[1:]:
            if names := stale():
                sys.exit(f"{', '.join(names)}: out of date; run `python -m animatediff_cog.schema`")
            return
        for path, text in files_of().items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(HERE))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
