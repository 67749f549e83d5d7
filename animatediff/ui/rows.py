"""Fields of several entries: LoRAs with their strengths, embeddings, camera moves, texts at frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from animatediff.bundled import CAMERA_MOVES, PREFIX
from animatediff.errors import UserError
from animatediff.frames import frame_number
from animatediff.render.declare import Option
from animatediff.ui.fields import Field, Sources
from animatediff.ui.labels import info, label
from animatediff.ui.library import gr


class Weights(Field):
    """Rows of a file and its strength, or the word that it stands for; the next row shows when one is filled."""

    wide = True

    def __init__(self, option: Option, rows: int) -> None:
        super().__init__(option)
        self.rows = rows
        self.by_word = "EmbeddingRef" in option.annotation

    def make(self, sources: Sources) -> None:
        rows, files = [], []
        for index in range(self.rows):
            with gr.Row(visible=index == 0, elem_classes="ad-pair") as row:
                title = label(self.name) if index == 0 else f"{label(self.name)} {index + 1}"
                files.append(
                    gr.Dropdown(
                        self.choices(sources),
                        value="",
                        allow_custom_value=True,
                        label=title,
                        info=info(self.name) if index == 0 else None,
                        scale=4,
                        min_width=180,
                        elem_id=f"{self.anchor}-{index}",
                    )
                )
                self.parts += [files[-1], self._second()]
            rows.append(row)
        for file, following in zip(files, rows[1:], strict=False):
            file.change(
                lambda value: gr.Row(visible=True) if value else gr.skip(),
                file,
                following,
                queue=False,
                show_progress="hidden",
                api_visibility="private",
            )

    def _second(self) -> Any:
        if self.by_word:
            return gr.Textbox("", label="Token", placeholder="the file's own", scale=1, min_width=110)
        return gr.Number(1.0, label="Strength", step=0.05, scale=1, min_width=90)

    def choices(self, sources: Sources) -> list[tuple[str, str]]:
        """(title, value) of what may be chosen."""
        return [("none", ""), *sources.choices.of(self.name)]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        found = []
        for file, second in zip(values[::2], values[1::2], strict=True):
            name = str(file or "").strip()
            if name in ("", "none"):
                continue
            path = sources.choices.file_of(name, self.name)
            if self.by_word:
                found.append({"path": path, "token": str(second or "").strip() or None})
            else:
                found.append({"path": path, "scale": 1.0 if second is None else second})
        if self.option.many:
            return found or None
        return found[0] if found else None

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        entries = [setting] if isinstance(setting, dict) else list(setting or ())
        if len(entries) > self.rows:
            raise UserError(f"`{self.name}` has {len(entries)} entries, and the form has room for {self.rows}")
        values: list[Any] = []
        for entry in entries:
            second = (entry.get("token") or "") if self.by_word else entry.get("scale", 1.0)
            values += [entry["path"], second]
        return values + ["", "" if self.by_word else 1.0] * (self.rows - len(entries))


class MotionLoras(Weights):
    """A slider for each camera move, and rows for other files."""

    def make(self, sources: Sources) -> None:
        gr.Markdown(
            "MotionLoRA of each camera move: 0 is off. They are the bundled model's own, or files in models/MotionLoRA."
        )
        with gr.Row(elem_classes="ad-moves"):
            self.parts = [gr.Slider(0, 1.5, 0, step=0.05, label=_spaced(move), min_width=150) for move in CAMERA_MOVES]
        super().make(sources)

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        count = len(CAMERA_MOVES)
        moves = [
            {"path": move, "scale": scale} for move, scale in zip(CAMERA_MOVES, values[:count], strict=True) if scale
        ]
        return [*moves, *(super().read(values[count:], sources) or ())] or None

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        sliders = dict.fromkeys(CAMERA_MOVES, 0.0)
        others = []
        for entry in setting or ():
            move = _move_of(entry["path"])
            if move is not None and not sliders[move] and 0 < entry.get("scale", 1.0) <= 1.5:
                sliders[move] = entry.get("scale", 1.0)
            else:
                others.append(entry)
        return [*sliders.values(), *super().show(others, sources)]


def _spaced(move: str) -> str:
    """`ZoomIn` as words."""
    return "".join(f" {char.lower()}" if char.isupper() else char for char in move).strip().capitalize()


def _move_of(path: str) -> str | None:
    """The camera move that a recorded name is, of the bundled set or of the published files."""
    name = path.removeprefix(PREFIX)
    for start in ("models/MotionLoRA/", "v2_lora_"):
        name = name.removeprefix(start)
    name = name.rpartition(".")[0] or name
    return name if name in CAMERA_MOVES else None


class Travel(Field):
    """A table of frames and the texts from there on."""

    wide = True

    def make(self, sources: Sources) -> None:
        self.parts = [
            gr.Dataframe(
                [[None, ""], [None, ""], [None, ""]],
                headers=["Frame", "Text from there on"],
                datatype=["number", "str"],
                type="array",
                column_count=2,
                column_widths=["22%", "78%"],
                interactive=True,
                wrap=True,
                buttons=[],
                label=f"{label(self.name)}: the prompt above is frame 0; add later texts",
                elem_classes="ad-travel",
                elem_id=self.anchor,
            )
        ]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        texts: dict[int, str] = {}
        for number, row in enumerate(values[0] or (), 1):
            cells = list(row)
            frame, text = cells[0] if cells else "", cells[1] if len(cells) > 1 else ""
            frame, text = str("" if frame is None else frame).strip(), str("" if text is None else text).strip()
            if not frame and not text:
                continue
            if not frame or not text:
                raise UserError(f"`{self.name}`: row {number} has no {'text' if frame else 'frame'}")
            try:
                at = frame_number(frame.removesuffix(".0"))
            except UserError as error:
                raise UserError(f"`{self.name}`: row {number}: {error}") from error
            if at in texts:
                raise UserError(f"`{self.name}`: frame {at} has two texts; keep one of them")
            texts[at] = text
        return [texts] if texts else None

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        if setting and len(setting) > 1:
            raise UserError(f"`{self.name}` has {len(setting)} travels, and the form has room for one")
        rows: list[list[Any]] = [[int(frame), text] for frame, text in (setting[0] if setting else {}).items()]
        return [rows + [[None, ""]] * max(1, 3 - len(rows))]
