"""Panels of which one is shown at a time, with a button for each: what tabs are, and usable by keyboard.

Bokeh's own tabs answer to a pointer only, lay out what is hidden, and are as high as the highest of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from bokeh.models import Button, Column, InlineStyleSheet, Row, SetValue, UIElement

from anabranch.monitoring.pages.looks import FAINT, FONT, INK, LINE

STYLE = f"""
:host {{ margin: 0; }}
.bk-btn {{ font: 14px/1.4 {FONT}; border: 0; border-bottom: 3px solid transparent; border-radius: 6px 6px 0 0;
  background: none; color: {FAINT}; padding: 5px 12px; box-shadow: none; }}
.bk-btn:hover {{ background: var(--hover); color: {INK}; }}
.bk-btn:focus-visible {{ outline: 3px solid var(--link); outline-offset: -3px; }}
.bk-btn-primary, .bk-btn-primary:hover {{ color: {INK}; font-weight: 600; border-bottom-color: var(--link);
  background: none; }}
"""
SMALL = """
.bk-btn { font-size: 12.5px; padding: 2px 10px; border-bottom: 0; border-radius: 999px; }
.bk-btn-primary, .bk-btn-primary:hover { background: var(--hover); }
"""


class Panels:
    """Panels by title; the first is shown.

    Buttons set properties without any script, so they work in files and under a strict policy too.

    Parameters
    ----------
    small
        Whether they are panels within a panel.
    """

    def __init__(self, panels: Sequence[tuple[str, UIElement]], *, small: bool = False) -> None:
        self.panels = [panel for _, panel in panels]
        self.titles = [title for title, _ in panels]
        sheet = InlineStyleSheet(css=STYLE + (SMALL if small else ""))
        buttons = [Button(label=title, stylesheets=[sheet], height=26 if small else 34) for title, _ in panels]
        for place, button in enumerate(buttons):
            button.button_type = "primary" if place == 0 else "default"
            self.panels[place].visible = place == 0
            for i, (other, panel) in enumerate(zip(buttons, self.panels, strict=True)):
                is_it = i == place
                button.js_on_event(
                    "button_click",
                    SetValue(obj=other, attr="button_type", value="primary" if is_it else "default"),
                    SetValue(obj=panel, attr="visible", value=is_it),
                )
        self._buttons = buttons
        line = {} if small else {"border-bottom": f"1px solid {LINE}"}
        bar = Row(children=buttons, styles={"flex-wrap": "wrap", **line}, spacing=2, sizing_mode="stretch_width",
                  css_classes=[] if small else ["tabs"], margin=(2, 5, 2, 5) if small else (4, 5, 8, 5))  # fmt: skip
        self.root = Column(children=[bar, *self.panels], sizing_mode="stretch_width")

    @property
    def active(self) -> int:
        """The panel that is shown."""
        return next((place for place, panel in enumerate(self.panels) if panel.visible), 0)

    @active.setter
    def active(self, place: int) -> None:
        for i, (button, panel) in enumerate(zip(self._buttons, self.panels, strict=True)):
            button.button_type = "primary" if i == place else "default"
            panel.visible = i == place
