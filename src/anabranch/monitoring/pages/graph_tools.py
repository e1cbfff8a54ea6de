"""What moves and scales the picture of a graph: buttons, wheel, pointer and keys, and a small picture of the whole."""

from __future__ import annotations

MAP_FROM = 100  # boxes: with fewer, the picture itself can be overlooked


def graph_tools(name: str, boxes: int) -> str:
    """The tools of a graph; `name` tells it from others on its page."""
    small = '<canvas aria-hidden="true" title="all of it; click to go there"></canvas>' if boxes > MAP_FROM else ""
    return f"""<graph-tools data-graph="{name}"><span role="group" aria-label="graph">
<button data-do="-" aria-label="smaller" title="smaller (-)">-</button>
<button data-do="+" aria-label="larger" title="larger (+)">+</button>
<button data-do="0" title="all of it (0)">fit</button>
<button data-do="bad" title="to the next task that failed">✗ failed</button>
<button data-do="on" title="to the next task that runs">► running</button></span>
<output></output>{small}</graph-tools>"""


STYLE = """
.bk-clearfix { width: 100%; }
graph-tools { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: center; min-height: 30px; }
graph-tools button { font: inherit; font-size: 13px; min-width: 28px; min-height: 26px; padding: 1px 8px;
  border: 1px solid var(--line); border-radius: 5px; background: var(--paper); color: var(--ink); cursor: pointer; }
graph-tools button:hover { background: var(--hover); }
graph-tools button:focus-visible { outline: 3px solid var(--link); outline-offset: 1px; }
graph-tools output { font-size: 13px; color: var(--faint); flex: 1 1 160px; overflow-wrap: anywhere; }
graph-tools canvas { border: 1px solid var(--line); border-radius: 4px; cursor: pointer; touch-action: none; }
@media print { graph-tools { display: none; } }
"""

# Its elements say themselves when they are there, however often Bokeh makes them anew. The view is kept for the tab of
# the browser, so that it is as it was after a step back.
SCRIPT = """
(() => {
  const tools = new WeakMap();  // by the frame that they move
  const above = (element) => element.getRootNode().host;
  const MAP_W = 220, MAP_H = 84, MAP_LEAST = 24, LEAST = 0.05, MOST = 3;
  const words = {bad: ['failed', 'nothing has failed'], on: ['running', 'nothing runs now']};

  customElements.define('graph-tools', class extends HTMLElement {
    connectedCallback() {
      if (!this.isConnected) return;
      const frame = above(this).getRootNode().querySelector('.frame');
      if (!frame) { setTimeout(() => this.connectedCallback(), 20); return; }
      const {signal} = this.off = new AbortController();
      const on = (kind, act, options) => frame.addEventListener(kind, act, {signal, ...options});
      this.frame = frame;
      this.zoom = 1;
      const id = new URLSearchParams(location.search).get('id') || '';
      this.key = `graph ${location.pathname} ${id} ${this.dataset.graph}`;
      try { this.view = JSON.parse(sessionStorage.getItem(this.key)); } catch { }
      tools.set(frame, this);
      frame.tabIndex = 0;
      frame.setAttribute('role', 'group');
      frame.setAttribute('aria-label', 'tasks of the flow: arrows go from one to the next, + and - scale, 0 fits');
      this.onclick = (event) => this.do(event.target.dataset.do);
      this.map = this.querySelector('canvas');
      if (this.map) this.map.onpointerdown = this.map.onpointermove = (event) => this.point(event);
      on('keydown', (event) => this.type(event));
      on('wheel', (event) => {
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        const {left, top} = frame.getBoundingClientRect();
        this.scale(this.zoom * Math.exp(-event.deltaY / 400), event.clientX - left, event.clientY - top);
      }, {passive: false});
      on('scroll', () => this.keep());
      on('focusin', (event) => { this.held = event.composedPath()[0].getAttribute('style'); });
      on('focusout', (event) => { if (event.composedPath()[0].isConnected) this.held = null; });
      this.pan(frame, on);
      this.shown = this.picture;
      this.sizes = new ResizeObserver(() => { if (frame.clientWidth) { this.show(); this.draw(); } });
      this.sizes.observe(frame);
    }
    disconnectedCallback() {
      this.off?.abort();
      this.sizes?.disconnect();
    }

    // What there is: Bokeh has a shadow tree in each of its elements.
    get picture() { return this.frame.shadowRoot.querySelector('.picture'); }
    get boxes() {
      const parts = this.picture ? [...this.picture.shadowRoot.children] : [];
      return parts.flatMap((part) => [...(part.shadowRoot?.querySelectorAll('.b') || [])]);
    }
    get size() {
      const svg = this.picture?.shadowRoot.querySelector('.lines')?.shadowRoot.querySelector('svg');
      return svg ? [+svg.getAttribute('width'), +svg.getAttribute('height')] : [1, 1];
    }

    // Parts come anew as they change, and all of them when there are new tasks.
    changed(part) {
      const is_new = this.shown !== this.picture, view = this.view;
      this.shown = this.picture;
      if (this.held && document.activeElement === document.body) {
        const box = [...part.children].find((each) => each.getAttribute('style') === this.held);
        box?.focus({preventScroll: true});
      }
      if (is_new && view) requestAnimationFrame(() => { this.view = view; this.show(); });
      if (!this.map || this.waits) return;
      this.waits = setTimeout(() => { this.waits = 0; this.drawn = null; this.draw(); }, 500);
    }

    // The view
    show() {
      if (!this.view) return;
      const [zoom, left, top] = this.view;
      this.set(zoom);
      this.frame.scrollTo(left, top);
    }
    set(zoom) {
      this.zoom = Math.min(MOST, Math.max(LEAST, zoom));
      this.frame.style.setProperty('--zoom', this.zoom);
    }
    scale(zoom, x = this.frame.clientWidth / 2, y = this.frame.clientHeight / 2) {
      const frame = this.frame, before = this.zoom, left = frame.scrollLeft, top = frame.scrollTop;
      this.set(zoom);
      const by = this.zoom / before;
      frame.scrollTo((left + x) * by - x, (top + y) * by - y);
      this.keep();
    }
    fit() {
      const [width, height] = this.size;
      this.set(Math.min(1, (this.frame.clientWidth - 1) / width, (innerHeight * 0.62 - 4) / height));
      this.frame.scrollTo(0, 0);
      this.keep();
    }
    keep() {
      if (!this.frame.clientWidth) return;
      this.view = [this.zoom, this.frame.scrollLeft, this.frame.scrollTop];
      try { sessionStorage.setItem(this.key, JSON.stringify(this.view)); } catch { }
      if (this.map) requestAnimationFrame(() => this.draw());
    }
    go(box) {
      const at = box.getBoundingClientRect(), frame = this.frame.getBoundingClientRect();
      this.frame.scrollBy(at.left + at.width / 2 - frame.left - frame.width / 2,
        at.top + at.height / 2 - frame.top - frame.height / 2);
      box.focus({preventScroll: true});
    }

    do(what) {
      if (what === '+' || what === '-') this.scale(this.zoom * (what === '+' ? 1.25 : 0.8));
      else if (what === '0') this.fit();
      else if (words[what]) {
        const found = this.boxes.filter((box) => box.classList.contains(what));
        const said = this.querySelector('output');
        if (!found.length) { said.textContent = words[what][1]; return; }
        const last = found.findIndex((box) => box.getAttribute('style') === this.last);
        const place = (last + 1) % found.length;
        this.last = found[place].getAttribute('style');
        this.go(found[place]);
        said.textContent = `${place + 1} of ${found.length} ${words[what][0]}: ${found[place].title.split(':')[0]}`;
      }
    }
    type(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const key = event.key === '=' ? '+' : event.key;
      if ('+-0'.includes(key)) this.do(key);
      else if (/^Arrow/.test(key)) this.step(event.composedPath()[0], key.slice(5));
      else return;
      event.preventDefault();
    }
    step(from, way) {
      const boxes = this.boxes, place = (box) => [parseFloat(box.style.left), parseFloat(box.style.top)];
      if (!boxes.includes(from)) { if (boxes.length) this.go(boxes[0]); return; }
      const [x, y] = place(from), is_level = way === 'Left' || way === 'Right';
      const sign = way === 'Right' || way === 'Down' ? 1 : -1;
      let best = null, least = Infinity;
      for (const box of boxes) {
        const [left, top] = place(box), dx = left - x, dy = top - y;
        const [along, aside] = is_level ? [dx * sign, dy] : [dy * sign, dx];
        const cost = along + 3 * Math.abs(aside);
        if (along > 1 && cost < least) [best, least] = [box, cost];
      }
      if (best) this.go(best);
    }

    pan(frame, on) {
      let from = null, moved = false;
      on('pointerdown', (event) => {
        moved = false;
        if (event.pointerType === 'mouse' && event.button === 0)
          from = [event.clientX + frame.scrollLeft, event.clientY + frame.scrollTop, event.clientX, event.clientY];
      });
      on('pointermove', (event) => {
        if (!from) return;
        if (!moved && Math.hypot(event.clientX - from[2], event.clientY - from[3]) < 5) return;
        if (!moved) frame.setPointerCapture(event.pointerId);
        moved = true;
        frame.scrollTo(from[0] - event.clientX, from[1] - event.clientY);
      });
      for (const end of ['pointerup', 'pointercancel']) on(end, () => { from = null; });
      on('dragstart', (event) => event.preventDefault());
      on('click', (event) => {
        if (moved) { event.preventDefault(); event.stopPropagation(); }
      }, {capture: true});
    }

    // The small picture of the whole
    draw() {
      const [width, height] = this.size;
      if (!this.map || width === 1 || !this.frame.clientWidth) return;
      const both = Math.min(MAP_W / width, MAP_H / height), pen = this.map.getContext('2d');
      const across = Math.max(both, MAP_LEAST / width), down = Math.max(both, MAP_LEAST / height);
      if (!this.drawn) {
        const fills = {};
        this.drawn = this.boxes.map((box) => [parseFloat(box.style.left), parseFloat(box.style.top),
          fills[box.className] ??= getComputedStyle(box).backgroundColor]);
        const first = this.boxes[0];
        this.box = first ? [first.offsetWidth, first.offsetHeight] : [1, 1];
      }
      this.map.width = Math.ceil(width * across);
      this.map.height = Math.ceil(height * down);
      for (const [x, y, fill] of this.drawn) {
        pen.fillStyle = fill;
        pen.fillRect(x * across, y * down, Math.max(1, this.box[0] * across), Math.max(1, this.box[1] * down));
      }
      const {scrollLeft, scrollTop, clientWidth, clientHeight} = this.frame;
      pen.strokeStyle = getComputedStyle(this).getPropertyValue('--link');
      pen.lineWidth = 2;
      pen.strokeRect(scrollLeft * across / this.zoom + 1, scrollTop * down / this.zoom + 1,
        Math.min(this.map.width, clientWidth * across / this.zoom) - 2,
        Math.min(this.map.height, clientHeight * down / this.zoom) - 2);
    }
    point(event) {
      if (!event.buttons) return;
      const [width, height] = this.size, {clientWidth, clientHeight} = this.frame;
      this.frame.scrollTo(event.offsetX / this.map.width * width * this.zoom - clientWidth / 2,
        event.offsetY / this.map.height * height * this.zoom - clientHeight / 2);
    }
  });

  customElements.define('graph-part', class extends HTMLElement {
    connectedCallback() { tools.get(above(above(above(this))))?.changed(this); }
  });
})();
"""
