"""`python integrations/comfyui/ade WORKFLOW.json [-o NEW.json]`: translate a workflow file and name what is lost."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ade import translate


def main() -> int:
    """Translate one file; 0 where all is carried over, 1 where something is not, 2 where nothing can be read."""
    parser = argparse.ArgumentParser(prog="ade", description="Turn a workflow of ADE_* nodes into AnimateDiff's nodes.")
    parser.add_argument("workflow", type=Path, help="JSON file, as ComfyUI saves or exports it")
    parser.add_argument("-o", "--output", type=Path, help="file to write; beside the other one where not given")
    given = parser.parse_args()
    try:
        found = translate(json.loads(given.workflow.read_text(encoding="utf-8")))
        output = given.output or given.workflow.with_name(f"{given.workflow.stem}-animatediff.json")
        output.write_text(json.dumps(found.workflow, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"{given.workflow}: cannot be translated: {error}", file=sys.stderr)
        return 2
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}"
        print(f"{given.workflow}: is no workflow as ComfyUI saves or exports it ({said})", file=sys.stderr)
        return 2
    print(f"{output}: {len(found.replaced)} nodes replaced")
    for note in found.notes:
        print(f"  {note}")
    return 1 if found.notes else 0


if __name__ == "__main__":
    sys.exit(main())
