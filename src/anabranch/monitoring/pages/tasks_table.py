"""Every task as a row of text, which a reader can sort and filter: what a picture shows, for those who read or listen.

The page's script does both, so that a report can do it, too. What is asked for is in the page's address.
"""

from __future__ import annotations

from anabranch.base.states import BY_CODE
from anabranch.base.texts import seconds
from anabranch.monitoring.pages.looks import SEVERITY, Link, no_link, safe
from anabranch.monitoring.pages.page_model import PageModel, PageNode
from anabranch.monitoring.pages.texts import mark

COLUMNS = ("task", "state", "elements", "work", "retries", "worker", "message")
NUMBERS = frozenset(("elements", "work", "retries"))
RIGHT = frozenset(("work", "retries"))


def task_fields() -> str:
    """Fields that say which tasks are wanted."""
    words = dict.fromkeys(BY_CODE[code].__name__ for code in reversed(SEVERITY))
    states = "".join(f"<option>{word}</option>" for word in words)
    return (
        '<tasks-fields class="search"><input type="search" aria-label="part of a task\'s name" placeholder="task">'
        f'<select aria-label="state"><option value="">any state</option>{states}</select>'
        '<output aria-live="polite"></output></tasks-fields>'
    )


def task_table(model: PageModel, link: Link = no_link) -> str:
    """Every node as a row, failures first."""
    heads = "".join(
        f'<th{" class=n" if name in RIGHT else ""}><button data-sort="{name}">{name}</button></th>' for name in COLUMNS
    )
    rows = "".join(_row(node, link) for node in sorted(model.nodes.values(), key=lambda node: not node.failed()))
    return (
        f'<tasks-table><div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></tasks-table>"
    )


def _row(node: PageNode, link: Link) -> str:
    took, counts = node.durations, node.counts() if node.width else {}
    told = ", ".join(f"{n:,} {BY_CODE[code].__name__}" for code, n in sorted(counts.items()))
    states = " ".join(BY_CODE[code].__name__ for code in {node.code, *counts})
    return (
        f'<tr data-in="{states}"><td>{link(node.slug, safe(node.slug, 80))}</td>'
        f'<td data-by="{SEVERITY.index(node.code):02}">{mark(node.code, BY_CODE[node.code].__name__)}</td>'
        f'<td data-by="{node.width or 0}">{told}</td>'
        f'<td class="n" data-by="{took.seconds:.6g}">{seconds(took.seconds) if took.total else ""}</td>'
        f'<td class="n" data-by="{node.retries}">{node.retries or ""}</td>'
        f"<td>{safe(node.worker, 60)}</td><td>{safe(node.running_text() or node.message, 300)}</td></tr>"
    )


STYLE = """
th > button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 2px 0;
  min-height: 24px; cursor: pointer; white-space: nowrap; }
th > button::after { content: ' ↕' / ''; color: var(--faint); }
th[aria-sort=ascending] > button::after { content: ' ↑' / ''; color: inherit; }
th[aria-sort=descending] > button::after { content: ' ↓' / ''; color: inherit; }
th > button:focus-visible { outline: 3px solid var(--link); outline-offset: 1px; }
.search > output { border: 0; color: var(--faint); }
@media print { tasks-fields { display: none !important; } th > button::after { content: ''; } }
"""

SCRIPT = (
    f"""
(() => {{
  const COLUMNS = {list(COLUMNS)}, NUMBERS = {sorted({"state", *NUMBERS})};
"""
    + """
  const asked = Object.fromEntries(['sort', 'text', 'state'].map((name) =>
    [name, new URLSearchParams(location.search).get(name) || '']));
  let table = null, fields = null, held = null;
  const ask = (name, value) => {
    asked[name] = value;
    try { keepInAddress(name, value); } catch { }  // a file may have no address of its own
    table?.show();
  };

  customElements.define('tasks-fields', class extends HTMLElement {
    connectedCallback() {
      fields = this;
      const [text, state] = [this.querySelector('input'), this.querySelector('select')];
      text.value = asked.text;
      state.value = asked.state;
      text.oninput = () => ask('text', text.value);
      state.onchange = () => ask('state', state.value);
      table?.show();
    }
  });

  customElements.define('tasks-table', class extends HTMLElement {
    connectedCallback() {
      table = this;
      this.rows = [...this.querySelectorAll('tbody > tr')];
      this.onclick = (event) => {
        const name = event.target.dataset?.sort, first = NUMBERS.includes(name) ? '-' : '';
        if (name) ask('sort', asked.sort === first + name ? (first ? '' : '-') + name : first + name);
      };
      this.addEventListener('focusin', (event) => { held = {...event.target.dataset}; });
      this.addEventListener('focusout', (event) => { if (event.target.isConnected) held = null; });
      this.show();
      if (held && document.activeElement === document.body)
        [...this.querySelectorAll('button, a')].find((each) =>
          held.sort ? each.dataset.sort === held.sort : held.task && each.dataset.task === held.task)
          ?.focus({preventScroll: true});
    }
    show() {
      const text = asked.text.toLowerCase(), name = asked.sort.replace('-', ''), column = COLUMNS.indexOf(name);
      let count = 0;
      for (const row of this.rows) {
        const is_in = row.cells[0].textContent.toLowerCase().includes(text)
          && (!asked.state || row.dataset.in.split(' ').includes(asked.state));
        row.hidden = !is_in;
        count += is_in;
      }
      for (const head of this.querySelectorAll('th')) {
        const is_it = column >= 0 && head.textContent === name;
        head.ariaSort = is_it ? (asked.sort[0] === '-' ? 'descending' : 'ascending') : null;
      }
      const keys = new Map(this.rows.map((row) => {
        const cell = row.cells[Math.max(0, column)];
        return [row, NUMBERS.includes(name) ? +cell.dataset.by : cell.textContent];
      }));
      const order = new Intl.Collator(undefined, {numeric: true}), sign = asked.sort[0] === '-' ? -1 : 1;
      const by = NUMBERS.includes(name) ? (a, b) => a - b : order.compare;
      const rows = column < 0 ? this.rows : [...this.rows].sort((a, b) => sign * by(keys.get(a), keys.get(b)));
      if (column >= 0 || this.is_sorted) this.querySelector('tbody').append(...rows);
      this.is_sorted = column >= 0;
      const said = fields?.querySelector('output'), all = this.rows.length;
      if (said) said.textContent = count < all ? `${count} of ${all} tasks` : `${all} tasks`;
    }
  });
})();
"""
)
