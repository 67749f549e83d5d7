"""Records of a result: its request with hashes and versions, as JSON, and a run's requests in the original's YAML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from animatediff.errors import holds_surrogates
from animatediff.files import HERE, Roots, write_text
from animatediff.render.portable import portable
from animatediff.render.read.original import to_original
from animatediff.render.read.result import sidecar_of
from animatediff.render.request import AnimateRequest


def record(request: AnimateRequest, roots: Roots = HERE) -> dict[str, Any]:
    """Record written inside and beside a result: the request, hashes of its files, and the versions it was made with.

    Files have portable names (`render.portable`).
    """
    from importlib.metadata import PackageNotFoundError, version

    from animatediff import __version__

    versions = {}
    for package in ("torch", "diffusers", "transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    stored, hashes = portable(request.stored(), roots)
    files = {"files": hashes} if hashes else {}
    return {"animatediff": __version__, "request": stored, **files, "versions": versions}


def write_sidecar(path: Path, content: dict[str, Any]) -> Path:
    """Write `content` as readable JSON beside a result."""
    sidecar = sidecar_of(path)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    if holds_surrogates(text):  # of file names that are no UTF-8
        text = json.dumps(content, indent=2)
    write_text(sidecar, text + "\n")
    return sidecar


def config_text(requests: Sequence[AnimateRequest], clips: Sequence[AnimateRequest], roots: Roots = HERE) -> str:
    """The runs with the seeds of their clips and every value filled in, as YAML in the original's keys."""
    import yaml

    runs, start = [], 0
    for request in requests:
        own = clips[start : start + request.num_clips]
        start += request.num_clips
        filled = own[0].model_copy(
            update={
                "prompt": request.prompt,
                "prompt_travel": request.prompt_travel,
                "negative_prompt": request.negative_prompt,
                "seed": tuple(clip.seed[0] for clip in own),
            }
        )
        run = to_original(filled, lambda stored: portable(stored, roots)[0])
        runs.append(run | ({"name": request.name} if request.name else {}))
    return yaml.safe_dump(runs, sort_keys=False, allow_unicode=True, width=120)
