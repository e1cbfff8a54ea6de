"""What is around every page: its colours in light and dark, a script for what HTML cannot do, and Bokeh's own frame."""

from __future__ import annotations

from jinja2 import Template

from anabranch.monitoring.pages.graph_tools import SCRIPT as GRAPH
from anabranch.monitoring.pages.tasks_table import SCRIPT as TASKS

COLOURS = {
    "ink": ("#24292f", "#e3e7eb"),
    "faint": ("#5b626b", "#a9b1ba"),
    "line": ("#d5dae0", "#3a424c"),
    "paper": ("#ffffff", "#14181d"),
    "soft": ("#f6f8fa", "#1f252c"),
    "link": ("#005a9c", "#79b8ff"),
    "warn": ("#b84a00", "#ff9d66"),
    "note": ("#fdf0cd", "#4a3b12"),
    "hover": ("#eef1f4", "#2a313a"),
}
"""Of everything that is no state, in light and dark; states have colours and inks of their own, which hold on both."""


def colours(scheme: int) -> str:
    """The colours as CSS: 0 is light, 1 is dark."""
    return "".join(f"--{name}: {both[scheme]}; " for name, both in COLOURS.items())


STYLE = f"""
:root {{ color-scheme: light; {colours(0)} }}
@media (prefers-color-scheme: dark) {{ :root:not([data-scheme=light]) {{ color-scheme: dark; {colours(1)} }} }}
:root[data-scheme=dark] {{ color-scheme: dark; {colours(1)} }}
@media print {{
  :root, :root[data-scheme] {{ color-scheme: light !important; {colours(0)} }}
  .scheme {{ display: none; }}
}}
html, body {{ margin: 0; background: var(--paper); }}
body {{ padding: 14px 18px; box-sizing: border-box; }}
.scheme {{ position: absolute; top: 12px; right: 14px; font: 15px/1 sans-serif; padding: 5px 8px; cursor: pointer;
  border: 1px solid var(--line); border-radius: 6px; background: none; color: var(--ink); z-index: 9; }}
.scheme:focus-visible {{ outline: 3px solid var(--link); }}
@media (max-width: 700px) {{ body {{ padding: 10px; }} .scheme {{ top: 6px; right: 6px; }} }}
"""

# Bokeh's texts are in shadow trees: what is clicked there is the first on the event's path.
SCRIPT = """
(() => {
  const root = document.documentElement;
  const keep = (scheme) => { try { localStorage.setItem('anabranch-scheme', scheme); } catch { } };
  try { root.dataset.scheme = localStorage.getItem('anabranch-scheme') || ''; } catch { }
  addEventListener('DOMContentLoaded', () => {
    document.querySelector('.scheme').addEventListener('click', () => {
      const isDark = getComputedStyle(root).colorScheme === 'dark';
      root.dataset.scheme = isDark ? 'light' : 'dark';
      keep(root.dataset.scheme);
    });
  });
  const field = () => window.Bokeh?.documents?.[0]?.get_model_by_name('asked');
  const place = (name, value) => {
    const here = new URL(location);
    if (value) here.searchParams.set(name, value); else here.searchParams.delete(name);
    return here;
  };
  window.keepInAddress = (name, value) => history.replaceState(history.state, '', place(name, value));
  addEventListener('click', (event) => {
    const path = event.composedPath();
    const tab = path.find((each) => each instanceof Element && each.matches('.bk-btn'));
    if (tab && location.protocol !== 'file:' && path.some((each) => each instanceof Element && each.matches('.tabs')))
      keepInAddress('tab', tab.textContent.trim());
  }, true);  // Bokeh's buttons let nobody else know
  addEventListener('click', (event) => {
    const link = event.composedPath().find((each) => each instanceof Element && each.matches('a.task'));
    const asked = link && field();
    if (!asked || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    history.pushState({}, '', place('task', link.dataset.task));
    asked.value = link.dataset.task;
  });
  addEventListener('popstate', () => {
    const asked = field();
    if (asked) asked.value = new URLSearchParams(location.search).get('task') || '';
  });
  addEventListener('keydown', (event) => {
    const asked = event.key === 'Escape' && field();
    if (!asked?.value) return;
    history.pushState({}, '', place('task', ''));
    asked.value = '';
  });
  addEventListener('click', (event) => {
    const button = event.composedPath()[0];
    if (!(button instanceof Element) || !button.matches('button.copy')) return;
    navigator.clipboard?.writeText(button.previousElementSibling.textContent).then(() => {
      button.textContent = 'copied';
      setTimeout(() => { button.textContent = 'copy'; }, 1500);
    });
  });
})();
"""

TEMPLATE = Template(
    "{% extends base %}{% block inner_head %}{{ super() }}"
    '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
    f"<style>{STYLE}</style><script>{SCRIPT}{GRAPH}{TASKS}</script>{{% endblock %}}"
    "{% block contents %}"
    '<button class="scheme" type="button" aria-label="light or dark" title="light or dark">◐</button>'
    "<main>{{ super() }}</main>{% endblock %}"
)
"""Bokeh's own frame, on a phone's scale, with room at the sides and without the empty line of its logo."""
